#!/usr/bin/env bash
# Everything under fire: daemons and mounts are killed with -9 and stood still, connections cut, one way only and stalled, at random
# moments of a mixed load (tests/stress/fire.py). A record outside knows what must be there; after each round all of it is, sqlite3
# and git find their data whole, cairn fsck finds nothing wrong, and unless its own mount was killed no program has seen an error.
#
# Usage: fire.sh [ROUNDS] [KIND]...      makes clusters of its own; SEED=N draws the same moments again
#   ROUNDS  of each kill (default 5); of the other kinds a tenth, at least one
#   KIND    meta data servers mount all: who is killed;  stop-meta stop-data stop-mount evict: who stands still;  old: daemons come back on
#           old copies of their directories;  cut oneway stall: what the network does. Default: all of them.
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
need_packages python3 fuse3 sqlite3 git psmisc
lib_trap
work_dir
rounds=${1:-5}
shift || true
kinds=${*:-meta data servers mount all stop-meta stop-data stop-mount evict old cut oneway stall}
few=$(((rounds + 9) / 10))
SEED=${SEED:-$RANDOM}
RANDOM=$SEED
echo "seed $SEED"
export CAIRN_RUN_DIR=$WORK_DIR/run
fire=$ROOT/tests/stress/fire.py
# How long servers, and a mount, may stand still; the longest wait until all goes on after that, and beside the load of a second mount
# (both then ask the server for each name: git needed 10 s for a commit on a busy machine). A load that only begins has no promise to
# keep: it may take so long until nobody can believe that it still moves.
STILL=10 ON=30 ON_BESIDE=60 BEGIN=120

# ---- the load --------------------------------------------------------------------------------------------------------

# pause MS: a random time below.
pause() { sleep "$(printf '0.%03d' $((RANDOM % $1)))"; }
# what_hangs PID: of the process and all that it started what each thread waits for, in the kernel and for which call.
# To be called before the reason is said: that stands last then.
what_hangs() {
    local pid task
    for pid in $(pstree -pT "$1" 2>/dev/null | grep -o '([0-9]*)' | tr -d '()'); do
        for task in /proc/"$pid"/task/*; do
            # One that ends while it is looked at has nothing to say.
            {
                echo "${task##*/} $(timeout 5 tr "\0" " " <"$task/cmdline"): $(cat "$task/wchan"), call $(cat "$task/syscall")"
                cat "$task/stack"
            } 2>/dev/null || true
        done
    done
}
# load_start MOUNT NAME: the load is under way when it returns; its pid is in LOAD_PID.
load_start() {
    local dir=$1/fire-$(basename "$1") records=$WORK_DIR/records-$(basename "$1")
    python3 "$fire" run "$dir" "$records" "$2" >"$WORK_DIR/load-$2.log" 2>&1 &
    LOAD_PID=$!
    LIB_PIDS+=("$LOAD_PID")
    goes_on "$1" "$2" "$BEGIN"
}
# goes_on MOUNT NAME [SECONDS]: the load gets on in time, after ON_AFTER seconds; or what hangs is said.
goes_on() {
    local pid
    ON_AFTER=$(python3 "$fire" goes-on "$WORK_DIR/records-$(basename "$1")" "$2" "${3:-$ON}") && return
    for pid in "$LOAD_PID" ${MNT_A_PID:-} ${MNT_B_PID:-}; do what_hangs "$pid"; done
    cat "$WORK_DIR/load-$2.log"
    echo "$2: $ON_AFTER"
    return 1
}
# load_end PID NAME: its exit code is in LOAD_CODE.
load_end() {
    kill -TERM "$1" 2>/dev/null || true
    wait_until 60 gone "$1" || { what_hangs "$1"; echo "$2: the load did not end within 60 s: something hangs"; return 1; }
    LOAD_CODE=0
    wait "$1" || LOAD_CODE=$?
}
no_error() { [ "$LOAD_CODE" = 0 ] || { echo "$1: programs saw errors (exit code $LOAD_CODE):"; cat "$WORK_DIR/load-$1.log"; return 1; }; }
# seen THROUGH MOUNT NAME [--told]: all that the record of the load in MOUNT says is there, as the mount THROUGH sees it.
seen() {
    local dir=$1/fire-$(basename "$2") records=$WORK_DIR/records-$(basename "$2") through=$3
    [ "$1" = "$2" ] || through="$3 through another mount"
    timeout 120 python3 "$fire" check "$dir" "$records" "$3" ${4:-} >"$WORK_DIR/check.log" 2>&1 ||
        { echo "$through ${4:-}:"; cat "$WORK_DIR/check.log"; return 1; }
    timeout 120 python3 "$ROOT/tests/stress/witness.py" check "$dir/$3/witness" "$records/$3/witness" ${4:-} >"$WORK_DIR/check2.log" 2>&1 ||
        { echo "$through ${4:-}:"; cat "$WORK_DIR/check2.log"; return 1; }
}
# seen_anew MOUNT NAME [--told]: the same through a mount that knows nothing but what the servers have. The one that wrote answers names
# and bytes from what it and its kernel remember, also of what the servers have lost. It is alone again when this returns.
seen_anew() {
    local check=$WORK_DIR/mnt-check pid code=0
    mount_at "$check" || return 1
    pid=$MOUNT_PID
    seen "$check" "$@" || code=1
    unmount "$check" && wait_until 20 gone "$pid" || { echo "$2: the mount that only looked does not end"; return 1; }
    return "$code"
}
# holds MOUNT NAME [--told]: all that the record says is there, for the mount and, unless ANEW is empty, for one that comes anew.
holds() {
    seen "$1" "$@" || return 1
    [ -z "${ANEW-1}" ] || seen_anew "$@" || return 1
    fsck_clean || return 1
    echo "$2: $(head -n 1 "$WORK_DIR/check.log"), $(head -n 1 "$WORK_DIR/check2.log")"
    rm -rf "${1:?}/fire-$(basename "$1")/$2"
}
# round_ends NAME PID: a load that saw no error ends, and holds.
round_ends() { load_end "$2" "$1" && no_error "$1" && holds "$MNT_A" "$1" --told; }

# log_says NAME LINE TEXT: from that line on. lines_of NAME: the line that comes next.
log_says() { tail -n "+$2" "$WORK_DIR/$1.log" | grep -q "$3"; }
lines_of() { echo $(($(wc -l <"$WORK_DIR/$1.log") + 1)); }

# ---- killed ----------------------------------------------------------------------------------------------------------

pid_of() { case $1 in meta) echo "$META_PID" ;; data) echo "$DATA_PID" ;; mount) echo "$MNT_A_PID" ;; esac; }
# kill_at_once WHO...
kill_at_once() {
    local who pids=()
    for who in "$@"; do pids+=("$(pid_of "$who")"); done
    kill -KILL "${pids[@]}"
    for who in "${pids[@]}"; do
        wait "$who" 2>/dev/null || true
        wait_until 10 gone "$who" || { echo "process $who survives kill -9"; return 1; }
    done
}
# servers_round NAME WHO...: the mount lives, so nothing at all is lost, and no program sees an error.
servers_round() {
    local name=$1 who
    shift
    load_start "$MNT_A" "$name" || return 1
    pause 999
    kill_at_once "$@" || return 1
    pause 500
    for who in "$@"; do "${who}_start" || return 1; done
    goes_on "$MNT_A" "$name" && round_ends "$name" "$LOAD_PID" || return 1
    echo "    on again after $ON_AFTER s; slowest of all calls: $(sed -n 's/.*slowest.* \(.*\) s$/\1/p' "$WORK_DIR/load-$name.log" | sort -n | tail -n 1) s"
}
# start_backwards: the mount, then the data daemon, and the metadata daemon that both need at last: each has said that it waits for it.
start_backwards() {
    local from_mount from_data
    from_mount=$(lines_of mount-mnt-a) from_data=$(lines_of data)
    mount_begin "$MNT_A" allow_other
    MNT_A_PID=$MOUNT_PID
    data_begin
    wait_until 10 log_says mount-mnt-a "$from_mount" "can't connect to the metadata service" &&
        wait_until 10 log_says data "$from_data" "can't connect to the metadata service" || { echo "nobody waits for the metadata daemon"; return 1; }
    meta_start && data_ready && mount_ready "$MNT_A" "$MNT_A_PID" || return 1
    echo "    started backwards"
}
# mount_round NAME WHO...: what was synced is there.
mount_round() {
    local name=$1 who
    shift
    load_start "$MNT_A" "$name" || return 1
    pause 999
    kill_at_once "$@" mount || return 1
    wait_until 30 gone "$LOAD_PID" || { what_hangs "$LOAD_PID"; echo "$name: a program hangs in the dead mount"; return 1; }
    load_end "$LOAD_PID" "$name" || return 1
    [ "$LOAD_CODE" = 3 ] || { echo "$name: the load ended with $LOAD_CODE:"; cat "$WORK_DIR/load-$name.log"; return 1; }
    umount -l "$MNT_A" || true
    case "$#-${name##*-}" in
        # Everything was off: every second time it comes back in the other order.
        2-*[13579]) start_backwards || return 1 ;;
        *)
            for who in "$@"; do "${who}_start" || return 1; done
            mount_at "$MNT_A" allow_other || return 1
            MNT_A_PID=$MOUNT_PID
            ;;
    esac
    # This mount knows nothing itself.
    ANEW='' holds "$MNT_A" "$name"
}

# ---- stood still -----------------------------------------------------------------------------------------------------

still_round() {
    local name=$1 pid
    pid=$(pid_of "$2")
    load_start "$MNT_A" "$name" || return 1
    pause 999
    kill -STOP "$pid"
    sleep "$STILL"
    kill -CONT "$pid"
    goes_on "$MNT_A" "$name" && round_ends "$name" "$LOAD_PID" || return 1
    echo "    on again after $ON_AFTER s"
}
# look_from_b NAME SECONDS: the second mount looks at all that the first one has under way, within so many seconds.
look_from_b() {
    timeout 60 python3 - "$MNT_B/fire-$(basename "$MNT_A")/$1/cells" "$2" <<'PYTHON'
import os, sys, time
start = time.monotonic()
for name in filter(str.isdigit, os.listdir(sys.argv[1])):
    with open(f"{sys.argv[1]}/{name}", "rb") as f:
        f.read(1000)
took = time.monotonic() - start
print(f"{took:.1f}")
sys.exit(took > float(sys.argv[2]))
PYTHON
}
# The first mount stands still, and comes back within its session: nobody sees an error, and the second mount goes on beside it.
mount_still_round() {
    local name=$1 load_a beside look stood
    load_start "$MNT_A" "$name" || return 1
    load_a=$LOAD_PID
    load_start "$MNT_B" "$name-b" || return 1
    pause 999
    kill -STOP "$MNT_A_PID"
    # From here, not from when the load beside it is seen to go on: it stands still for so long and no longer.
    sleep "$STILL" &
    stood=$!
    look_from_b "$name" $((STILL + 5)) >"$WORK_DIR/look.log" 2>&1 &
    look=$!
    LIB_PIDS+=("$look" "$stood")
    goes_on "$MNT_B" "$name-b" "$ON_BESIDE" || return 1
    beside=$ON_AFTER
    wait "$stood"
    kill -CONT "$MNT_A_PID"
    wait "$look" || { echo "$name: a look at its files took $(cat "$WORK_DIR/look.log") s"; return 1; }
    goes_on "$MNT_A" "$name" "$ON_BESIDE" || return 1
    load_end "$LOAD_PID" "$name-b" && no_error "$name-b" && holds "$MNT_B" "$name-b" --told || return 1
    round_ends "$name" "$load_a" || return 1
    echo "    beside it on after $beside s, a look at its files took $(cat "$WORK_DIR/look.log") s"
}
# It does not come back in time: the second mount waits no longer than a session may be silent, and what was synced is there.
evict_round() {
    local name=$1 load_a took
    load_start "$MNT_A" "$name" || return 1
    load_a=$LOAD_PID
    load_start "$MNT_B" "$name-b" || return 1
    pause 999
    kill -STOP "$MNT_A_PID"
    took=$(look_from_b "$name" $((EVICTED + 3))) || { echo "$name: a look at its files took $took s"; return 1; }
    goes_on "$MNT_B" "$name-b" "$ON_BESIDE" || return 1
    kill -CONT "$MNT_A_PID"
    # Files that were open are lost to its programs; the mount itself goes on.
    load_end "$load_a" "$name" || return 1
    load_end "$LOAD_PID" "$name-b" && no_error "$name-b" && ANEW='' holds "$MNT_B" "$name-b" --told && holds "$MNT_A" "$name" || return 1
    load_start "$MNT_A" "$name-again" && round_ends "$name-again" "$LOAD_PID" || return 1
    echo "    a look at its files took $took s"
}

# ---- old copies ------------------------------------------------------------------------------------------------------

# swap DIR COPY: each becomes the other.
swap() { mv "$1" "$1.swap" && mv "$2" "$1" && mv "$1.swap" "$2"; }
old_round() {
    local name=$1 from code=0
    # A copy that is made while the daemon runs, and goes on running: no start lies in between.
    load_start "$MNT_A" "$name" || return 1
    cp -a "$WORK_DIR/data" "$WORK_DIR/old-data"
    goes_on "$MNT_A" "$name" && load_end "$LOAD_PID" "$name" && no_error "$name" || return 1
    stop "$DATA_PID" || return 1
    swap "$WORK_DIR/data" "$WORK_DIR/old-data"
    from=$(lines_of data)
    data_start >"$WORK_DIR/old.log" 2>&1 || true
    wait_until 10 gone "$SPAWNED_PID" || { echo "$name: the old copy is served"; return 1; }
    wait "$SPAWNED_PID" || code=$?
    [ "$code" = 1 ] && log_says data "$from" "^cairn-fsd: .*old copy of the data directory.*--accept-loss" ||
        { echo "$name: not refused: code $code"; return 1; }
    swap "$WORK_DIR/data" "$WORK_DIR/old-data"
    data_start || return 1
    holds "$MNT_A" "$name" --told || return 1
    rm -r "${WORK_DIR:?}/old-data"

    # The metadata daemon and the mount both say so: nobody else knows what is missing.
    stop "$META_PID" || return 1
    cp -a "$WORK_DIR/meta" "$WORK_DIR/old-meta"
    meta_start && load_start "$MNT_A" "$name-meta" || return 1
    # What the mount has not stored by then is lost with its session, which the old copy does not know.
    # Each file: the kernel does not tell FUSE of syncfs.
    load_end "$LOAD_PID" "$name-meta" && no_error "$name-meta" && find "$MNT_A" -type f -exec sync {} + || return 1
    # One more start that the mount has met: the old copy's next one must be lower than the last that it knows.
    stop "$META_PID" || return 1
    from=$(lines_of mount-mnt-a)
    meta_start && wait_until 30 log_says mount-mnt-a "$from" "connected to the metadata daemon" && stop "$META_PID" || return 1
    swap "$WORK_DIR/meta" "$WORK_DIR/old-meta"
    from=$(lines_of mount-mnt-a)
    meta_start || return 1
    wait_until 30 log_says mount-mnt-a "$from" "old copy of its directory" || { echo "$name: the mount says nothing"; return 1; }
    stop "$META_PID" || return 1
    swap "$WORK_DIR/meta" "$WORK_DIR/old-meta"
    meta_start || return 1
    # As the line says.
    unmount "$MNT_A" && wait_until 20 gone "$MNT_A_PID" && mount_at "$MNT_A" allow_other || return 1
    MNT_A_PID=$MOUNT_PID
    ANEW='' holds "$MNT_A" "$name-meta" --told || return 1
    rm -r "${WORK_DIR:?}/old-meta"
}

# ---- the network -----------------------------------------------------------------------------------------------------

cuts_are_said() { [ "$(grep -c ' cuts$' "$WORK_DIR/net-$1.log")" -ge "$2" ]; }
# cuts PROXY N: mends it, and checks that it has cut something since the last time; it was mended N times with this.
cuts() {
    net "$1" mend
    wait_until 10 cuts_are_said "$1" "$2" && tail -n 1 "$WORK_DIR/net-$1.log"
}
cut_round() {
    local name=$1 number=${1##*-}
    load_start "$MNT_A" "$name" || return 1
    net meta cut $RANDOM 2000 200000
    net data cut $RANDOM 1000000 20000000
    sleep "$STILL"
    echo "    metadata: $(cuts meta "$number"), data: $(cuts data "$number")"
    [ "$(cat "$WORK_DIR"/net-*.log | grep -c '^0 cuts')" = 0 ] || { echo "$name: the network worked too well"; return 1; }
    goes_on "$MNT_A" "$name" && round_ends "$name" "$LOAD_PID"
}
# What was asked arrives, its answer does not; then the other way round: each time the connections are cut in the end.
oneway_round() {
    local name=$1 what which
    load_start "$MNT_A" "$name" || return 1
    for which in meta data; do
        for what in answers requests; do
            net "$which" silence "$what"
            sleep 3
            net "$which" drop
            net "$which" silence none
            goes_on "$MNT_A" "$name" || return 1
        done
    done
    round_ends "$name" "$LOAD_PID"
}
stall_round() {
    local name=$1 which
    load_start "$MNT_A" "$name" || return 1
    for which in meta data; do
        net "$which" silence both
        sleep "$STILL"
        net "$which" silence none
        goes_on "$MNT_A" "$name" || return 1
        echo "    $which: on again after $ON_AFTER s"
    done
    round_ends "$name" "$LOAD_PID"
}

# ---- all of it -------------------------------------------------------------------------------------------------------

wants() { case " $kinds " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
# each KIND COUNT FUNCTION [ARGUMENT]...
each() {
    local kind=$1 count=$2 function=$3 round
    shift 3
    wants "$kind" || return 0
    for round in $(seq "$count"); do
        # A failed round may leave the cluster in any state: the next one would only tell of that.
        "$function" "$kind-$round" "$@" || { echo "FAILED $kind-$round (seed $SEED)"; exit 1; }
    done
}

cluster_start 1
each meta "$rounds" servers_round meta
each data "$rounds" servers_round data
each servers "$rounds" servers_round meta data
each mount "$rounds" mount_round
each all "$rounds" mount_round meta data
each stop-meta "$few" still_round meta
each stop-data "$few" still_round data
each old "$few" old_round
if wants stop-mount || wants evict; then
    cluster_second
    each stop-mount "$few" mount_still_round
    if wants evict; then
        EVICTED=4
        stop "$META_PID"
        META_ARGS="--session-timeout ${EVICTED}s --recall-timeout ${EVICTED}s" meta_start
        each evict "$few" evict_round
    fi
fi
cluster_stop || { echo "FAILED: the cluster did not end cleanly"; exit 1; }

if wants cut || wants oneway || wants stall; then
    # The same directories; the mount and the data daemon reach others through the proxies only.
    unset MNT_B_PID
    DATA_ADDR=127.$((RANDOM % 200 + 2)).$((RANDOM % 200 + 1)).$((RANDOM % 200 + 1)):9421
    meta_start
    proxy_start net-meta "$META_ADDR"
    META_ADDR=$LISTEN_ADDR
    proxy_start net-data "$DATA_ADDR"
    DATA_ARGS="--advertise $LISTEN_ADDR"
    data_start
    mount_at "$MNT_A" allow_other
    MNT_A_PID=$MOUNT_PID
    each cut "$few" cut_round
    each oneway "$few" oneway_round
    each stall "$few" stall_round
    cluster_stop || { echo "FAILED: the cluster did not end cleanly"; exit 1; }
fi
if grep -nE "panicked at" "$WORK_DIR"/{meta,data,mount-mnt-*}.log; then exit 1; fi
