#!/usr/bin/env bash
# Each daemon is stopped cleanly, and killed with -9, under load, five times; a witness outside knows what must be there.
# Servers: all that the mount was told must survive, and both mounts go on by themselves. Mount: all that was fsynced (killed),
# all that was told (stopped). After each round cairn fsck finds nothing wrong.
# Usage: restart.sh [ROUNDS] [meta|data|mount] [term|kill]      makes a cluster of its own
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
rounds=${1:-5}
targets=${2:-meta data mount}
ways=${3:-term kill}
need_packages python3 fuse3
lib_trap
work_dir
witness=$ROOT/tests/stress/witness.py
cluster_start 2
mkdir "$MNT_A/w"
nothing=0

done_count() { python3 "$witness" count "$1" 2>/dev/null || echo 0; }
more_than() { [ "$(done_count "$1")" -ge "$2" ] || gone "$LOAD_PID"; }
start_load() {
    RECORD=$WORK_DIR/record-$1
    mkdir -p "$MNT_A/w/$1"
    python3 "$witness" run "$MNT_A/w/$1" "$RECORD" >"$WORK_DIR/load-$1.log" 2>&1 &
    LOAD_PID=$!
    LIB_PIDS+=("$LOAD_PID")
    wait_until 30 more_than "$RECORD" 60 || { echo "no load in 30 s"; return 1; }
}
end_load() {
    kill -TERM "$LOAD_PID" 2>/dev/null || true
    wait_until 60 gone "$LOAD_PID" || { echo "the load did not end within 60 s: something hangs"; return 1; }
    LOAD_CODE=0
    wait "$LOAD_PID" || LOAD_CODE=$?
}
must_hold() {
    timeout 120 python3 "$witness" check "$1/w/$2" "$WORK_DIR/record-$2" ${3:-} >"$WORK_DIR/check.log" 2>&1 ||
        { echo "$2, seen at $(basename "$1") ${3:-}:"; cat "$WORK_DIR/check.log"; return 1; }
}

# A server goes away and comes back at the same address; the load must go on and end well.
server_round() {
    local name=$1 target=$2 way=$3 pid before since
    pid=$META_PID
    [ "$target" = data ] && pid=$DATA_PID
    start_load "$name" || return 1
    if [ "$way" = kill ]; then
        kill_hard "$pid" || return 1
    else
        stop "$pid" 15 || return 1
    fi
    since=$SECONDS
    "${target}_start" || return 1
    before=$(done_count "$RECORD")
    wait_until 60 more_than "$RECORD" $((before + 40)) || { echo "$name: the mount did not go on within 60 s"; return 1; }
    end_load || return 1
    [ "$LOAD_CODE" = 0 ] || { echo "$name: the load saw errors:"; cat "$WORK_DIR/load-$name.log"; return 1; }
    must_hold "$MNT_A" "$name" --told && must_hold "$MNT_B" "$name" --told || return 1
    fsck_clean || return 1
    echo "$name: $(tail -n 2 "$WORK_DIR/check.log" | head -n 1), $(head -n 1 "$WORK_DIR/load-$name.log"), on again after $((SECONDS - since)) s"
}

mount_round() {
    local name=$1 way=$2 told=
    start_load "$name" || return 1
    if [ "$way" = kill ]; then
        kill_hard "$MNT_A_PID" || return 1
    else
        told=--told
        stop "$MNT_A_PID" 30 || { echo "$name: the mount did not end on SIGTERM"; return 1; }
    fi
    end_load || return 1
    [ "$LOAD_CODE" = 1 ] && { echo "$name: an error that a lost mount does not explain:"; cat "$WORK_DIR/load-$name.log"; return 1; }
    umount -l "$MNT_A" 2>/dev/null || true
    # What the other mount sees first: nobody has looked at it before.
    must_hold "$MNT_B" "$name" $told || return 1
    mount_at "$MNT_A" allow_other || return 1
    MNT_A_PID=$MOUNT_PID
    must_hold "$MNT_A" "$name" $told || return 1
    fsck_clean || return 1
    echo "$name: $(head -n 1 "$WORK_DIR/check.log")"
}

for target in $targets; do
    for way in $ways; do
        for round in $(seq "$rounds"); do
            name=$target-$way-$round
            if [ "$target" = mount ]; then
                mount_round "$name" "$way" || { echo "FAILED $name"; nothing=1; break; }
            else
                server_round "$name" "$target" "$way" || { echo "FAILED $name"; nothing=1; break; }
            fi
        done
        # A failed round may leave the cluster in any state: the next one would only tell of that.
        [ "$nothing" = 0 ] || exit 1
    done
done

# And all of it once more, when every process is a new one.
cluster_stop || { echo "FAILED: the cluster did not end cleanly"; exit 1; }
cluster_start 1
for record in "$WORK_DIR"/record-*; do
    name=${record##*/record-}
    case $name in mount-kill-*) told= ;; *) told=--told ;; esac
    must_hold "$MNT_A" "$name" $told
done
echo "all $(ls "$WORK_DIR"/record-* | wc -l) records hold after a restart of everything"
cluster_stop
