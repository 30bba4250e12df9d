#!/usr/bin/env bash
# What programs and people see while servers are away: hard mounts wait and go on, soft ones tell in time, signals end every wait,
# df, cairn status and umount end in seconds, a watchdog frees the users of a mount that is beyond help, a disk that hangs is as a server that
# is away, and one failing disk of two is no harm.
# Usage: errors.sh [PART...]     makes a cluster of its own; root, because it mounts
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
is_root || skip "umount and ordinary users need root"
need_packages python3 fuse3 jq e2fsprogs
lib_trap
work_dir
# `disk` is the last one: it adds a data daemon, and nothing has to wait for the first one then.
parts=${*:-signals kernel hard soft cut alone figures umount watchdog user frozen disk}
now_ms() { echo $(($(date +%s%N) / 1000000)); }
# in_ms LIMIT WHAT: since the last `clock=$(now_ms)`.
in_ms() {
    local ms=$(($(now_ms) - clock))
    if [ "$ms" -le "$1" ]; then ok "$2: $ms ms"; else fail "$2 took $ms ms"; fi
}
WAITS=$ROOT/tests/stress/waits.py
# The helper that umount(8) calls, without an installation.
ln -s "$(bin cairn-mountd)" "$WORK_DIR/umount.cairn"
export CAIRN_RUN_DIR=$WORK_DIR/run

# ---- faults ----------------------------------------------------------------------------------------------------------

# stop_still PID: none of its threads answers any more when this returns. The signal itself is under way for a moment.
stop_still() {
    local pid=$1
    kill -STOP "$pid"
    still() { [ -z "$(grep -h "^State:" /proc/"$pid"/task/*/status | grep -v "T (stopped)")" ]; }
    wait_until 5 still || fail "process $pid does not stand still"
}
fault() {
    case $1 in
        meta-killed) kill_hard "$META_PID" ;;
        meta-stopped) stop_still "$META_PID" ;;
        data-killed) kill_hard "$DATA_PID" ;;
        data-stopped) stop_still "$DATA_PID" ;;
        both-killed) kill_hard "$META_PID"; kill_hard "$DATA_PID" ;;
        both-stopped) stop_still "$META_PID" && stop_still "$DATA_PID" ;;
        both-cut) net meta silence both; net data silence both ;;
        *-frozen) fsfreeze -f "$WORK_DIR/${1%-frozen}" ;;
    esac
}
heal() {
    case $1 in
        meta-killed) meta_start ;;
        data-killed) data_start ;;
        both-killed) meta_start && data_start ;;
        meta-stopped) kill -CONT "$META_PID" ;;
        data-stopped) kill -CONT "$DATA_PID" ;;
        both-stopped) kill -CONT "$META_PID" "$DATA_PID" ;;
        both-cut) net meta silence none; net data silence none ;;
        *-frozen) fsfreeze -u "$WORK_DIR/${1%-frozen}" ;;
    esac
}

# ---- calls that wait -------------------------------------------------------------------------------------------------

# The calls that need the metadata daemon, and those that need the data daemon. Locks are asked for at the server, as there are two mounts.
META_CALLS="stat list open create mkdir rename link symlink unlink chmod truncate setxattr getxattr fallocate copy seekdata seekhole append
    fsyncdir flock lockf unlock close"
DATA_CALLS="read fault write osync fsync copydirty msync"
# Those that wait for a disk whatever is in memory.
META_CHANGES="create mkdir rename link symlink unlink chmod truncate setxattr fallocate copy append fsyncdir flock lockf unlock close"
DATA_CHANGES="write osync fsync copydirty msync"
# Pages that a mapping has changed are not waited for in the full one: that wait is the kernel's own (see there).
FULL=$WORK_DIR/full
full_start() { mount_at "$FULL" "allow_other,dirty=16MiB${1:-}" && FULL_PID=$MOUNT_PID || { fail "no mount with little memory"; return 1; }; }
full_end() { unmount "$FULL" && wait_until 20 gone "$FULL_PID" || fail "umount of the mount with little memory"; }

declare -A CALLERS=()
# stage NAME MNT CALL...: each call is ready to go, in a directory of its own.
stage() {
    local name=$1 mnt=$2 call pid
    shift 2
    STAGE=$name
    CALLERS=()
    mkdir -p "$WORK_DIR/marks"
    for call in "$@"; do
        mkdir -p "$mnt/$name/$call"
        case $call in read | fault | bus)
            head -c 300000 /dev/zero >"$MNT_B/$name/$call/file"
            sync "$MNT_B/$name/$call/file"
            ;;
        esac
    done
    FULL=$FULL/$name BESIDE=$MNT_B/$name python3 "$WAITS" "$mnt/$name" "$WORK_DIR/marks/$name" "$@" >"$WORK_DIR/marks/$name" 2>>"$WORK_DIR/waits.log" ||
        { fail "$name: no callers"; return 1; }
    while read -r call pid; do
        CALLERS[$call]=$pid
        LIB_PIDS+=("$pid")
    done <"$WORK_DIR/marks/$name"
    for call in "$@"; do wait_until 20 test -e "$(mark "$call").ready" || { fail "$name: $call does not get ready"; return 1; }; done
}
mark() { echo "$WORK_DIR/marks/$STAGE-$1"; }
go() {
    local call
    for call in "${!CALLERS[@]}"; do echo "$(mark "$call").go"; done | xargs touch
}
waiting() { for call in "${!CALLERS[@]}"; do [ ! -e "$(mark "$call").done" ] || { echo "$call"; return 1; }; done; }
all_done() { for call in "${!CALLERS[@]}"; do [ -e "$(mark "$call").done" ] || return 1; done; }
all_gone() { for call in "${!CALLERS[@]}"; do gone "${CALLERS[$call]}" || return 1; done; }
who_is_left() { for call in "${!CALLERS[@]}"; do gone "${CALLERS[$call]}" || echo -n "$call "; done; }

# ends_by_signal SIGNAL FAULT CALL...: all wait, and none does any more after the signal.
ends_by_signal() {
    local signal=$1 fault=$2 early
    shift 2
    stage "signal-$signal-$fault" "$MNT_A" "$@" || return 0
    fault "$fault"
    go
    sleep 0.5
    early=$(waiting) || fail "$fault: $early did not wait: $(cat "$(mark "$early").done")"
    clock=$(now_ms)
    kill "-$signal" "${CALLERS[@]}"
    wait_until 5 all_gone || fail "$fault: SIG$signal does not end $(who_is_left)"
    in_ms 2000 "$fault: SIG$signal ends $# waits"
    heal "$fault"
}
signals() {
    local signal
    full_start || return 0
    for signal in KILL INT; do
        ends_by_signal "$signal" meta-stopped $META_CALLS
        ends_by_signal "$signal" data-stopped $DATA_CALLS
    done
    ends_by_signal INT meta-killed $META_CALLS
    ends_by_signal KILL data-killed $DATA_CALLS
    # Who was killed while it waited for a lock holds none, here or there.
    for mnt in "$MNT_A" "$MNT_B"; do
        for call in flock lockf; do
            timeout 20 python3 -c 'import fcntl,sys; f=open(sys.argv[1],"r+"); fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_EX)' \
                "$mnt/signal-KILL-meta-stopped/$call/file" || fail "a killed process holds the lock of $call"
        done
    done
    full_end
}

# ---- waits that are the kernel's own ---------------------------------------------------------------------------------

# asleep PID: in the kernel, where no signal is heard.
asleep() { grep -qs "^State:.D" "/proc/$1/status"; }
kernel() {
    unmount "$MNT_B" && wait_until 20 gone "$MNT_B_PID" || fail "umount"
    same_directory first second
    same_directory second first
    changed_pages heal
    changed_pages umount
    changed_pages soft
    cluster_second || fail "no second mount"
}
# maker NAME: makes a directory of that name in $MNT_A/same; its pid is in MAKER_PID.
maker() {
    mkdir "$MNT_A/same/$1" 2>>"$WORK_DIR/waits.log" &
    MAKER_PID=$!
    LIB_PIDS+=("$MAKER_PID")
}
asks() { grep -qs request_wait_answer "/proc/$1/wchan"; }
# same_directory KILLED-FIRST KILLED-THEN: two processes change one directory while the servers are away. The second waits behind the
# first's lock, deaf to signals, and no longer than that one: both are gone in whichever order they are killed. The mount is alone: it
# knows all names, and comes as far as the change itself.
same_directory() {
    local -A makers
    mkdir -p "$MNT_A/same"
    ls -l "$MNT_A/same" >/dev/null
    fault both-stopped
    maker "first-$1"
    makers[first]=$MAKER_PID
    wait_until 5 asks "${makers[first]}" || fail "nobody waits to make a directory"
    maker "second-$1"
    makers[second]=$MAKER_PID
    # Kernels may come where this wait hears signals; then there is nothing special about it.
    wait_until 5 asleep "${makers[second]}" || echo "the second one's wait is not the kernel's own here"
    kill -KILL "${makers[$1]}"
    clock=$(now_ms)
    if [ "$1" = first ]; then
        wait_until 5 gone "${makers[first]}" || fail "the first of two in a directory can't be killed"
        in_ms 2000 "killed while another one waits behind it"
        # Now it is the one that asks.
        wait_until 5 asks "${makers[second]}" || fail "the second does not go on when the first is gone"
        clock=$(now_ms)
    fi
    kill -KILL "${makers[$2]}"
    all_two_gone() { gone "${makers[first]}" && gone "${makers[second]}"; }
    wait_until 5 all_two_gone || fail "killed, $1 first: not gone in 5 s"
    in_ms 2000 "two that change one directory are killed, the $1 first: both are gone"
    heal both-stopped
    works() { timeout 5 mkdir -p "$MNT_A/same/works"; }
    wait_until 30 works || fail "the mount does not go on"
    # Who was killed before it could ask has changed nothing.
    [ "$1" = first ] || [ ! -e "$MNT_A/same/second-$1" ] || fail "killed behind another's lock, and the directory is made"
}
# changed_pages HOW: a process that has changed pages of a mapping and is killed ends at once when the mount has room for them. When it has
# not, the kernel holds the dying process until they are taken: the servers are back (heal), the mount is ended (umount), or gives up (soft).
changed_pages() {
    local small large
    full_start "$([ "$1" != soft ] || echo ",soft,timeo=2s")" || return 0
    stage "pages-$1" "$MNT_A" mapped mapfull || return 0
    small=${CALLERS[mapped]} large=${CALLERS[mapfull]}
    fault data-stopped
    go
    wait_until 10 test -e "$(mark mapped).done" || fail "a page of a mapping can't be changed while the data daemon is away"
    wait_until 10 asleep "$large" || fail "more pages than the mount has room for: nobody waits"
    clock=$(now_ms)
    kill -KILL "$small" "$large"
    wait_until 5 gone "$small" || fail "killed with changed pages: still there"
    in_ms 2000 "killed with changed pages that the mount has room for"
    # Kernels may come that do not wait here.
    gone "$large" || echo "killed with more changed pages than that: waits in $(cat "/proc/$large/wchan")"
    clock=$(now_ms)
    case $1 in
        heal)
            heal data-stopped
            wait_until 10 gone "$large" || fail "the data daemon is back, and the killed process stays"
            in_ms 5000 "the data daemon is back: the killed process ends"
            full_end
            ;;
        umount)
            plain_umount -f "$FULL" || fail "umount -f: $(cat "$WORK_DIR/umount.log")"
            wait_until 10 gone "$large" || fail "the mount is ended, and the killed process stays"
            in_ms 2000 "umount -f: the killed process ends"
            heal data-stopped
            wait_until 20 gone "$FULL_PID" || fail "umount -f: the daemon stays"
            ;;
        soft)
            wait_until 20 gone "$large" || fail "the mount is soft, and the killed process stays"
            in_ms 10000 "a soft mount gives up: the killed process ends"
            heal data-stopped
            full_end
            ;;
    esac
}

# ---- hard: wait, say so once, go on ----------------------------------------------------------------------------------

hard() {
    local fault call calls from log=$WORK_DIR/mount-mnt-a.log
    full_start || return 0
    for fault in ${*:-meta-killed both-killed meta-stopped data-killed}; do
        from=$(wc -l <"$log")
        case $fault in *-frozen) calls="$META_CHANGES $DATA_CHANGES" ;; *) calls="$META_CALLS $DATA_CALLS" ;; esac
        stage "hard-$fault" "$MNT_A" $calls || return 0
        fault "$fault"
        go
        sleep 2
        # A signal that is caught ends no wait.
        kill -USR1 $(for call in "${!CALLERS[@]}"; do [ -e "$(mark "$call").done" ] || echo "${CALLERS[$call]}"; done)
        sleep 1
        heal "$fault"
        clock=$(now_ms)
        wait_until 30 all_done || { fail "$fault: still waiting after the servers are back: $(who_is_left)"; continue; }
        in_ms 5000 "$fault: all go on"
        for call in "${!CALLERS[@]}"; do
            [ "$(cut -d' ' -f1 "$(mark "$call").done")" = 0 ] || fail "$fault: $call saw errno $(cat "$(mark "$call").done")"
        done
        has_written "$MNT_B/$STAGE/write" 30000000
        for call in osync fsync copydirty msync; do has_written "$MNT_B/$STAGE/$call" 300000; done
        tail -n "+$((from + 1))" "$log" >"$WORK_DIR/said"
        [ "$(grep -c "can't connect" "$WORK_DIR/said")" -le 2 ] && ! grep -q ERROR "$WORK_DIR/said" || fail "$fault: the log says $(cat "$WORK_DIR/said")"
    done
    case $parts in *hard*) grep -q "can't connect" "$log" || fail "the log does not say what is away" ;; esac
    full_end
}
# has_written DIR BYTES: the file of a call is as it wrote it, seen by another mount.
has_written() {
    [ "$(stat -c %s "$1/file")" = "$2" ] && [ "$(tr -d x <"$1/file" | wc -c)" = 0 ] && return 0
    fail "$1: $(stat -c %s "$1/file") bytes, $(tr -d x <"$1/file" | wc -c) of them not as they were written"
}

# ---- soft: an error in time, and nothing twice -----------------------------------------------------------------------

TIMEO=2000
soft_start() {
    mount_at "$WORK_DIR/soft" "allow_other,soft,timeo=${TIMEO}ms" || { fail "no soft mount"; return 1; }
    SOFT_PID=$MOUNT_PID
    full_start ",soft,timeo=${TIMEO}ms"
}
soft_end() {
    full_end
    umount "$WORK_DIR/soft" || fail "umount of the soft mount"
    wait_until 20 gone "$SOFT_PID" || fail "the soft mount's daemon stays"
}
soft() {
    local fault
    soft_start || return 0
    for fault in meta-killed meta-stopped data-stopped data-killed both-stopped both-killed; do
        case $fault in
            meta-*) soft_fault "$fault" $META_CALLS ;;
            *) soft_fault "$fault" $SOFT_DATA_CALLS ;;
        esac || return 0
    done
    # The calls that need the metadata daemon do not get further because the other one is away, too.
    for fault in both-stopped both-killed; do soft_fault "$fault" $META_CALLS || return 0; done
    soft_end
}
# The network takes all and brings nothing, of both servers at the same time; no connection ends.
cut_off() {
    local data_args=${DATA_ARGS:-} meta=$META_ADDR
    proxy_start net-meta "$META_ADDR" && META_PROXY=$LISTEN_ADDR && proxy_start net-data "$DATA_ADDR" || { fail "no proxies"; return 0; }
    # The data daemon itself is not cut off from the metadata daemon; all mounts reach it through the proxy.
    stop "$DATA_PID" && DATA_ARGS="--advertise $LISTEN_ADDR" data_start || { fail "the data daemon does not start"; return 0; }
    META_ADDR=$META_PROXY
    soft_start || return 0
    META_ADDR=$meta
    soft_fault both-cut $META_CALLS && soft_fault both-cut $SOFT_DATA_CALLS || return 0
    soft_end
    stop "$DATA_PID" && DATA_ARGS=$data_args data_start || fail "the data daemon does not start"
}
# An error where a page is touched is SIGBUS; that of what could not be stored is told by close, which does not wait for it.
SOFT_DATA_CALLS="${DATA_CALLS/fault/bus} closing"
SOFT_ROUND=0
# soft_fault FAULT CALL...: each sees EIO in time, the mount works on afterwards, and what was told failed has happened once or not at all.
soft_fault() {
    local fault=$1 call line ms number at written
    shift
    SOFT_ROUND=$((SOFT_ROUND + 1))
    stage "soft-$fault-$SOFT_ROUND" "$WORK_DIR/soft" "$@" || return 1
    fault "$fault"
    go
    wait_until 15 all_done || fail "soft, $fault: no error in 15 s: $(who_is_left)"
    for call in "$@"; do
        line=$(cat "$(mark "$call").done" 2>/dev/null || echo "none 0")
        number=${line% *} ms=${line#* }
        # 5 is EIO. Several have to ask more than once, look at the root first, and the kernel lets one after the other ask for the
        # directory that they share.
        [ "$number" = 5 ] && [ "$ms" -ge 1500 ] && [ "$ms" -le $((TIMEO + 3000)) ] || fail "soft, $fault: $call: errno $number after $ms ms"
    done
    ok "soft, $fault: errors of $# calls in time, the last after $(slowest "$@") ms"
    heal "$fault"
    works() { timeout 5 mkdir "$WORK_DIR/soft/$STAGE/works"; }
    wait_until 30 works || fail "soft, $fault: the mount does not go on"
    at=$MNT_B/$STAGE
    case " $* " in *" rename "*)
        [ "$(find "$at" -mindepth 2 -name new -o -mindepth 2 -name dir -o -mindepth 2 -name symbolic | wc -l)" -le 3 ] || fail "soft, $fault: too many names"
        [ "$(ls "$at/rename" | wc -l)" = 1 ] || fail "soft, $fault: a renamed file has names $(ls "$at/rename")"
        [ "$(stat -c %h "$at/link/file")" = "$(ls "$at/link" | wc -l)" ] || fail "soft, $fault: a wrong link count"
        [ "$(stat -c %s "$at/append/file")" -le 7 ] || fail "soft, $fault: appended twice"
        [ "$(stat -c %b "$at/fallocate/file")" -le 20 ] && [ "$(stat -c %s "$at/copy/copied")" -le 4 ] || fail "soft, $fault: too much set aside or copied"
        for call in flock close; do
            timeout 20 flock -n "$at/$call/file" true || fail "soft, $fault: $call was told failed, and holds its lock"
        done
        ;;
    *)
        # What was written stays, and is stored now; what could not be begun did not happen.
        for call in fsync copydirty msync closing; do has_written "$at/$call" 300000; done
        [ "$(stat -c %s "$at/copydirty/copied")" = 0 ] || fail "soft, $fault: a copy that was told failed"
        written=$(stat -c %s "$at/write/file")
        [ "$written" -ge 8000000 ] && has_written "$at/write" "$written" || fail "soft, $fault: $written bytes are left of what was written"
        ;;
    esac
}
slowest() { for call in "$@"; do cut -d' ' -f2 "$(mark "$call").done"; done | sort -n | tail -n 1; }

# A soft mount that is alone knows its names, so that the calls come as far as the change itself. What was sent and not answered may
# happen later, and only once; what could not be sent does not happen.
alone() {
    local fault call at=$WORK_DIR/alone happened
    unmount "$MNT_A" && unmount "$MNT_B" && wait_until 20 gone "$MNT_A_PID" && wait_until 20 gone "$MNT_B_PID" || fail "umount"
    mount_at "$at" "allow_other,soft,timeo=2s" || { fail "no soft mount"; return; }
    for fault in meta-killed meta-stopped; do
        stage "alone-$fault" "$at" create mkdir rename link symlink unlink chmod truncate setxattr fsyncdir || return 0
        for call in "${!CALLERS[@]}"; do ls -l "$at/$STAGE/$call" >/dev/null; done
        fault "$fault"
        go
        wait_until 15 all_done || fail "alone, $fault: no error in 15 s: $(who_is_left)"
        for call in "${!CALLERS[@]}"; do
            line=$(cat "$(mark "$call").done" 2>/dev/null || echo "none 0")
            [ "${line% *}" = 5 ] && [ "${line#* }" -ge 1500 ] && [ "${line#* }" -le 4000 ] || fail "alone, $fault: $call: errno ${line% *} after ${line#* } ms"
        done
        heal "$fault"
        works() { timeout 5 mkdir "$at/$STAGE/works"; }
        wait_until 30 works || fail "alone, $fault: the mount does not go on"
        happened=$(find "$at/$STAGE" -mindepth 2 \( -name new -o -name dir -o -name symbolic -o -name moved -o -name linked \) | wc -l)
        [ "$(ls "$at/$STAGE/rename" | wc -l)" = 1 ] && [ "$(stat -c %h "$at/$STAGE/link/file")" = "$(ls "$at/$STAGE/link" | wc -l)" ] || fail "alone, $fault: half done"
        case $fault in
            meta-killed) [ "$happened" = 0 ] || fail "alone, $fault: $happened changes happened that were told failed before they could be sent" ;;
            *) [ "$happened" -le 5 ] || fail "alone, $fault: $happened changes" ;;
        esac
        ok "alone, $fault: errors in time; $happened of 5 happened all the same"
    done
    timeout 60 "$(bin cairn)" fsck --meta "$META_ADDR" >"$WORK_DIR/fsck" 2>&1 || fail "fsck after all this: $(cat "$WORK_DIR/fsck")"
    unmount "$at" || fail "umount of the soft mount"
    mount_at "$MNT_A" allow_other && MNT_A_PID=$MOUNT_PID && cluster_second || fail "no mounts"
}

# ---- df, cairn status ------------------------------------------------------------------------------------------------

figures() {
    local fault before
    before=$(df --output=size "$MNT_A" | tail -n 1)
    for fault in meta-killed meta-stopped data-killed data-stopped both-killed both-stopped; do
        fault "$fault"
        clock=$(now_ms)
        if timeout 20 df --output=size "$MNT_A" >"$WORK_DIR/df" 2>&1; then
            [ "$(tail -n 1 "$WORK_DIR/df")" -gt 0 ] || fail "$fault: df says $(cat "$WORK_DIR/df") where it was $before"
        else fail "$fault: df: $(cat "$WORK_DIR/df")"; fi
        in_ms 2000 "$fault: df"
        clock=$(now_ms)
        timeout 20 stat -f "$MNT_A" >/dev/null && timeout 20 stat "$MNT_A" >/dev/null || fail "$fault: stat of the mount point"
        in_ms 2000 "$fault: stat of the mount point"
        clock=$(now_ms)
        timeout 20 "$(bin cairn)" status --meta "$META_ADDR" >"$WORK_DIR/status" 2>&1 && fail "$fault: cairn status says that all is well"
        in_ms 2000 "$fault: cairn status"
        case $fault in
            data-*) grep -q "$DATA_ADDR DOES NOT ANSWER" "$WORK_DIR/status" ;;
            *) grep -q "metadata daemon at $META_ADDR does not answer" "$WORK_DIR/status" ;;
        esac || fail "$fault: cairn status does not name it: $(cat "$WORK_DIR/status")"
        heal "$fault"
        back() { timeout 5 mkdir -p "$MNT_A/figures-$fault"; }
        wait_until 40 back || fail "$fault: the mount does not come back"
    done
    clock=$(now_ms)
    # An address that nobody answers at (RFC 5737).
    timeout 20 "$(bin cairn)" status --meta 192.0.2.1:1 >"$WORK_DIR/status" 2>&1 && fail "cairn status of nobody succeeds"
    in_ms 2000 "cairn status of a host that is not there"
    room_of_the_absent
}

# What a data daemon that is away has room for counts: a write waits for it, and is not told that there is no space.
room_of_the_absent() {
    none_free() { [ "$(df --output=avail "$MNT_A" | tail -n 1)" -eq 0 ]; }
    fault data-stopped
    wait_until 20 none_free || fail "df still counts what is free on a data daemon that is away"
    timeout 20 python3 -c 'import os, sys; os.posix_fallocate(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), 0, 1 << 20)' "$MNT_A/set-aside" &&
        ok "room is set aside while the data daemon is away" || fail "posix_fallocate while the data daemon is away"
    heal data-stopped
}

# ---- umount ----------------------------------------------------------------------------------------------------------

plain_umount() { timeout 90 "$WORK_DIR/umount.cairn" "$@" >"$WORK_DIR/umount.log" 2>&1; }
umount_() {
    local fault
    for fault in meta-killed meta-stopped data-killed both-stopped; do
        mount_at "$WORK_DIR/um" allow_other || { fail "no mount"; return; }
        ls "$WORK_DIR/um" >/dev/null
        sync -f "$WORK_DIR/um"
        fault "$fault"
        clock=$(now_ms)
        plain_umount "$WORK_DIR/um" || fail "$fault: umount with nothing to store: $(cat "$WORK_DIR/umount.log")"
        in_ms 8000 "$fault: umount with nothing to store"
        is_mounted "$WORK_DIR/um" && { fail "$fault: still mounted"; umount -l "$WORK_DIR/um"; }
        wait_until 30 gone "$MOUNT_PID" || fail "$fault: the daemon stays"
        heal "$fault"
    done
    # Umount without -f is tried with three of them: it takes 10 s to fail.
    for fault in killed killed-f data both stopped; do
        mount_at "$WORK_DIR/um" "allow_other,logfile=$WORK_DIR/um-$fault.log" || { fail "no mount"; return; }
        mkdir -p "$WORK_DIR/um/umount"
        exec 8>"$WORK_DIR/um/umount/$fault"
        case $fault in killed*) fault data-killed ;; *) fault data-stopped ;; esac
        head -c 300000 /dev/zero >&8
        exec 8>&-
        case $fault in
            both) fault meta-killed ;;
            stopped) fault meta-stopped ;;
        esac
        case $fault in killed | data | both)
            clock=$(now_ms)
            plain_umount "$WORK_DIR/um" && fail "$fault: umount succeeds though data can't be stored"
            in_ms 15000 "$fault: umount with something to store fails"
            is_mounted "$WORK_DIR/um" && [ "$(wc -l <"$WORK_DIR/umount.log")" = 1 ] || fail "$fault: $(cat "$WORK_DIR/umount.log")"
            ;;
        esac
        if [ "$fault" = killed ]; then
            # Nothing is lost by having tried.
            heal data-killed
            plain_umount "$WORK_DIR/um" || fail "umount after the data daemon is back: $(cat "$WORK_DIR/umount.log")"
            gone "$MOUNT_PID" && [ "$(stat -c %s "$MNT_B/umount/$fault")" = 300000 ] && ok "umount stores what it refused to lose" || fail "umount lost what it refused to lose"
            continue
        fi
        clock=$(now_ms)
        plain_umount -f "$WORK_DIR/um" || fail "$fault: umount -f: $(cat "$WORK_DIR/umount.log")"
        in_ms 2000 "$fault: umount -f"
        is_mounted "$WORK_DIR/um" && { fail "$fault: umount -f leaves the mount"; umount -l "$WORK_DIR/um"; }
        # It still tries to store what it has; a signal says that nobody waits for that.
        clock=$(now_ms)
        kill -TERM "$MOUNT_PID" 2>/dev/null || true
        wait_until 30 gone "$MOUNT_PID" || fail "$fault: the daemon does not end on SIGTERM"
        in_ms 8000 "$fault: the daemon ends on SIGTERM"
        grep -q "written data is lost: '$fault'" "$WORK_DIR/um-$fault.log" || fail "$fault: nobody says what is lost: $(cat "$WORK_DIR/um-$fault.log")"
        case $fault in
            both) heal meta-killed ;;
            stopped) heal meta-stopped ;;
        esac
        case $fault in killed*) heal data-killed ;; *) heal data-stopped ;; esac
    done
    # A program inside does not keep a mount that is ended by force.
    mount_at "$WORK_DIR/um" allow_other || { fail "no mount"; return; }
    (cd "$WORK_DIR/um" && exec sleep 60) &
    LIB_PIDS+=("$!")
    inside() { [ "$(readlink "/proc/$!/cwd")" = "$WORK_DIR/um" ]; }
    wait_until 5 inside || fail "nobody is inside"
    plain_umount "$WORK_DIR/um" && fail "umount of a busy mount"
    plain_umount -f "$WORK_DIR/um" && ! is_mounted "$WORK_DIR/um" && ok "umount -f of a busy mount" || fail "umount -f of a busy mount: $(cat "$WORK_DIR/umount.log")"
    kill "$!" 2>/dev/null || true
    wait_until 20 gone "$MOUNT_PID" || fail "umount -f: the daemon stays"
}

# ---- the watchdog ----------------------------------------------------------------------------------------------------

# wait_and_die WHAT: the caller of the staged call ends within 20 s of SIGKILL, and its mount is dead.
freed() {
    clock=$(now_ms)
    kill -KILL "${CALLERS[@]}" 2>/dev/null || true
    wait_until "$2" all_gone || fail "$1: $(who_is_left) can't be killed"
    in_ms "$(($2 * 1000))" "$1: its user is freed"
    wait_until 20 gone "$MOUNT_PID" || fail "$1: the daemon stays"
}
WATCH_LOG=$WORK_DIR/watchdog.log
watched() { mount_at "$WORK_DIR/wd" "allow_other,watchdog=5s,logfile=$WATCH_LOG" || { fail "no mount"; return 1; }; }
watchdog() {
    local before
    # Servers that are away are no reason, nor is a daemon that somebody has stopped.
    watched || return 0
    stage watchdog-waits "$WORK_DIR/wd" mkdir lockf || return 0
    fault both-stopped
    go
    # Longer than it would take to be ended, looks included.
    sleep 9
    heal both-stopped
    wait_until 40 all_done && [ "$(cut -d' ' -f1 "$(mark mkdir).done")" = 0 ] && ok "a mount that waits for its servers is left alone" || fail "a mount that waits was ended"
    stage watchdog-stopped "$WORK_DIR/wd" mkdir || return 0
    kill -STOP "$MOUNT_PID"
    go
    # Longer than it would take to be ended, looks included.
    sleep 9
    kill -CONT "$MOUNT_PID"
    wait_until 20 all_done && [ "$(cut -d' ' -f1 "$(mark mkdir).done")" = 0 ] && ok "a daemon that was stopped goes on" || fail "a daemon that was stopped was ended"
    [ ! -s "$WATCH_LOG" ] || ! grep -q "get errors from now on" "$WATCH_LOG" || fail "the watchdog bites: $(cat "$WATCH_LOG")"

    # All threads but the first are held by a debugger: as dead-locked ones, they answer nothing.
    stage watchdog-wedged "$WORK_DIR/wd" mkdir || return 0
    python3 "$ROOT/tests/stress/hold_threads.py" "$MOUNT_PID" "$WORK_DIR/held" 2>>"$WORK_DIR/waits.log" &
    LIB_PIDS+=("$!")
    if wait_until 10 test -e "$WORK_DIR/held"; then
        go
        sleep 0.5
        freed "a daemon whose threads are stuck" 20
        grep -q "has answered nothing for 5 s" "$WATCH_LOG" || fail "the log does not tell of the stuck daemon: $(cat "$WATCH_LOG")"
        [ "$(grep -c "get errors from now on" "$WATCH_LOG")" = 1 ] || fail "not one line: $(cat "$WATCH_LOG")"
    else
        echo "skipped: threads cannot be held here (ptrace is not allowed)"
        kill_hard "$MOUNT_PID"
    fi
    umount -l "$WORK_DIR/wd"

    # Killed while a thread waits in the kernel for a page that only this daemon would fill.
    before=$(wc -l <"$WATCH_LOG")
    watched || return 0
    stage watchdog-killed "$WORK_DIR/wd" read || return 0
    fault data-stopped
    go
    sleep 0.5
    # The other mount writes to the file: this one's pages have to go.
    (echo x >>"$MNT_B/watchdog-killed/read/file") &
    LIB_PIDS+=("$!")
    stuck() { grep -qs "^State:.D" /proc/"$MOUNT_PID"/task/*/status; }
    wait_until 10 stuck && echo "a thread of the daemon waits in the kernel" || fail "no thread waits in the kernel"
    kill -KILL "$MOUNT_PID"
    freed "a daemon that was killed and can't end" 25
    tail -n "+$((before + 1))" "$WATCH_LOG" | grep -q "was killed and can't end" || fail "the log does not tell of the dying daemon: $(cat "$WATCH_LOG")"
    umount -l "$WORK_DIR/wd" 2>/dev/null || true
    heal data-stopped
    wait_until 40 test -s "$MNT_B/watchdog-killed/read/file" || fail "the other mount does not go on"
}

# ---- a dead mount of an ordinary user --------------------------------------------------------------------------------

user() {
    local mnt=$WORK_DIR/home/mnt mode daemon
    mkdir -p "$WORK_DIR/home"
    chown nobody "$WORK_DIR/home"
    mode=$(stat -c %a /dev/fuse)
    at_end "chmod $mode /dev/fuse"
    chmod 666 /dev/fuse
    LIB_MOUNTS+=("$mnt")
    as_user() { setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME="$WORK_DIR/home" XDG_RUNTIME_DIR="$WORK_DIR/home" CAIRN_RUN_DIR= "$@"; }
    as_user mkdir "$mnt"
    as_user timeout 30 "$(bin cairn-mountd)" "$META_ADDR:/" "$mnt" </dev/null >"$WORK_DIR/user.log" 2>&1 || { fail "no mount of an ordinary user: $(cat "$WORK_DIR/user.log")"; return; }
    daemon=$(pgrep -u nobody -f -- "cairn-mountd .*$mnt\$")
    kill_hard "$daemon"
    as_user timeout 30 "$(bin cairn-mountd)" "$META_ADDR:/" "$mnt" </dev/null >"$WORK_DIR/user.log" 2>&1 || fail "a dead mount of an ordinary user is in the way: $(cat "$WORK_DIR/user.log")"
    grep -q 'took away a dead mount' "$WORK_DIR/user.log" && [ "$(grep -c " $mnt " /proc/self/mounts)" = 1 ] && as_user ls "$mnt" >/dev/null && ok "a dead mount of an ordinary user is replaced" ||
        fail "a dead mount of an ordinary user: $(cat "$WORK_DIR/user.log")"
    as_user fusermount3 -u "$mnt" || fail "fusermount3 -u"
}

# ---- a disk that fails -----------------------------------------------------------------------------------------------

# A data daemon that can write no more than the first MiB of a file, as long as it has that limit. The signal that comes with it is
# ignored from the daemon's start: what remains is a write(2) that fails with neither ENOSPC nor EIO, as of a broken disk.
disk() {
    local dir=$MNT_A/disk content=$WORK_DIR/disk.content number
    mkdir "$dir"
    head -c 3000000 /dev/urandom >"$content"
    stop "$DATA_PID" || fail "the data daemon does not end"
    trap '' XFSZ
    data_start
    trap - XFSZ
    put() { timeout 40 dd if="$content" of="$1" bs=1M conv=fsync status=none 2>"$WORK_DIR/disk.error"; }
    put "$dir/before" || fail "nothing can be written: $(cat "$WORK_DIR/disk.error")"
    prlimit --fsize=1048576: --pid "$DATA_PID"
    clock=$(now_ms)
    if put "$dir/alone"; then
        fail "a file was synced to a disk that takes nothing"
    else
        grep -q "Input/output error" "$WORK_DIR/disk.error" && in_ms 5000 "EIO from the only disk, which fails" || fail "the only disk fails: $(cat "$WORK_DIR/disk.error")"
    fi
    mkdir "$WORK_DIR/data-second"
    spawn data-second "$(bin cairn-fsd)" data --data-dir "$WORK_DIR/data-second" --listen 127.0.0.1:0 --meta "$META_ADDR"
    SECOND_PID=$SPAWNED_PID
    wait_listening
    wait_until 10 put "$dir/first" || fail "a second daemon is not found: $(cat "$WORK_DIR/disk.error")"
    for number in 1 2 3 4 5 6; do
        put "$dir/$number" || fail "file $number: a program sees the error of one disk of two: $(cat "$WORK_DIR/disk.error")"
    done
    wait_until 20 sync "$dir/alone" && ok "what the failing disk did not take is stored elsewhere" || fail "what a failing disk did not take is not stored"
    prlimit --fsize=unlimited: --pid "$DATA_PID"
    for number in before alone first 1 2 3 4 5 6; do
        cmp "$content" "$MNT_B/disk/$number" || fail "$number is not what was written"
    done
    fsck_clean || fail "fsck"
}

# ---- a disk that hangs -----------------------------------------------------------------------------------------------

# freezable DIR: a file system of its own. Once it is frozen, whatever changes it does not return before it is thawed.
freezable() {
    truncate -s 2G "$1.img"
    mkfs.ext4 -q -F "$1.img"
    mkdir "$1"
    mount -o loop "$1.img" "$1" || return 1
    at_end "fsfreeze -u '$1' 2>/dev/null; umount -l '$1'"
    fsfreeze -f "$1" && fsfreeze -u "$1"
}
# The daemons' directories move there.
on_freezable() {
    local dir
    stop "$DATA_PID" && stop "$META_PID" || fail "a daemon does not end"
    for dir in "$WORK_DIR/meta" "$WORK_DIR/data"; do
        mv "$dir" "$dir-before"
        freezable "$dir" && cp -a "$dir-before/." "$dir/" || return 1
    done
    meta_start && data_start
}
# told NAME: the log of the daemon says that its disk hangs.
told() { tail -n "+$((from + 1))" "$WORK_DIR/$1.log" | grep -q "$WORK_DIR/$1: a .* has not returned for .* s: the disk hangs"; }
goes_on() { tail -n "+$((from + 1))" "$WORK_DIR/$1.log" | grep -q "$WORK_DIR/$1: the disk goes on, after"; }
frozen() {
    local signal name from
    freezable "$WORK_DIR/freezable" || { echo "skipped: no file system can be mounted and frozen here"; return 0; }
    on_freezable || { fail "the daemons do not start on other disks"; return 0; }
    full_start || return 0
    for signal in KILL INT; do
        ends_by_signal "$signal" meta-frozen $META_CHANGES
        ends_by_signal "$signal" data-frozen $DATA_CHANGES
    done
    full_end
    hard meta-frozen data-frozen
    soft_start && soft_fault meta-frozen $META_CHANGES && soft_fault data-frozen $DATA_CHANGES closing && soft_end || fail "no soft mount"
    for name in meta data; do
        from=$(wc -l <"$WORK_DIR/$name.log")
        mount_at "$WORK_DIR/um" allow_other || { fail "no mount"; return; }
        stage "frozen-$name" "$MNT_A" fsync mkdir || return 0
        fault "$name-frozen"
        go
        wait_until 15 told "$name" && ok "$name: the log says that the disk hangs" || fail "$name: the log does not say that the disk hangs: $(cat "$WORK_DIR/$name.log")"
        clock=$(now_ms)
        timeout 20 df "$MNT_A" >/dev/null || fail "$name-frozen: df"
        in_ms 2000 "$name-frozen: df"
        clock=$(now_ms)
        timeout 20 "$(bin cairn)" status --meta "$META_ADDR" >"$WORK_DIR/status" 2>&1 && fail "$name-frozen: cairn status says that all is well"
        in_ms 2000 "$name-frozen: cairn status"
        grep -q -e "$DATA_ADDR DOES NOT ANSWER" -e "metadata daemon at $META_ADDR does not answer" "$WORK_DIR/status" || fail "$name-frozen: cairn status does not name it: $(cat "$WORK_DIR/status")"
        clock=$(now_ms)
        plain_umount -f "$WORK_DIR/um" || fail "$name-frozen: umount -f: $(cat "$WORK_DIR/umount.log")"
        in_ms 2000 "$name-frozen: umount -f"
        heal "$name-frozen"
        wait_until 30 all_done && wait_until 10 goes_on "$name" && ok "$name: it goes on with the disk" || fail "$name: $(who_is_left) waits, the log says $(tail -n 3 "$WORK_DIR/$name.log")"
        wait_until 20 gone "$MOUNT_PID" || fail "$name-frozen: umount -f: the daemon stays"
    done
    fsck_clean || fail "fsck"
}

cluster_start 2
for part in $parts; do
    from=$SECONDS
    case $part in umount) umount_ ;; cut) cut_off ;; *) "$part" ;; esac
    echo "$part: $((SECONDS - from)) s"
done
cluster_stop || fail "the cluster did not end cleanly"
[ -z "${SECOND_PID:-}" ] || stop "$SECOND_PID" || fail "the second data daemon does not end"
exit $failed
