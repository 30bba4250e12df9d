#!/usr/bin/env bash
# How soon servers are back after kill -9: the metadata daemon with many inodes and a log that grows, the data daemon with much data;
# and how soon after that a program that waited gets its answer.
# Usage: scripts/bench.d/recovery.sh [--judge] [INODES] [GIGABYTES] [KILLS]      default: 1000000 20 5
#   --judge  the metadata daemon is killed when most of the log that there may be lies behind its checkpoint, and the median of each
#            daemon's restarts has to serve in less than 2 s, and to give its first answer within 300 ms of that. Without it all is measured only.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
judge=
[ "${1:-}" = --judge ] && { judge=1; shift; }
need_packages python3 fuse3 jq
lib_trap
work_dir
inodes=${1:-1000000} gigabytes=${2:-20} kills=${3:-5}
# What is promised, in milliseconds. A checkpoint begins after 16 MiB of log, 70,000 entries of this load, and at the latest a minute after
# the first of them: so many make a full tail, and a machine that does not get there in time has no longer one.
SERVES=2000 ANSWERS=300 FULL=50000
export CAIRN_RUN_DIR=$WORK_DIR/run
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# asker WHAT DIR: asks for one thing after the other, and writes down when each answer came (milliseconds).
asker() {
    python3 - "$@" "$WORK_DIR/answers" <<'PYTHON' &
import os, sys, time
what, at, answers = sys.argv[1:]
fd = os.open(f"{at}/asked", os.O_RDWR | os.O_CREAT)
data = os.urandom(8 << 20)
with open(answers, "w", buffering=1) as out:
    while True:
        if what == "meta":
            os.pwrite(fd, b"asked", 0)
        else:
            # More than travels inside of an operation.
            os.pwrite(fd, data, 0)
        os.fsync(fd)
        out.write(f"{time.time_ns() // 1000000}\n")
        time.sleep(0.001)
PYTHON
    ASKER_PID=$!
    LIB_PIDS+=("$ASKER_PID")
    wait_until 30 test -s "$WORK_DIR/answers"
}
answered_after() { awk -v since="$1" '$1 > since { found = 1; exit } END { exit !found }' "$WORK_DIR/answers"; }
first_answer() { awk -v since="$1" '$1 > since { print $1; exit }' "$WORK_DIR/answers"; }

# When a daemon last said that it serves.
served_at() { echo $(($(date -d "$(sed -n 's/^\([^ ]*\) .* serves .*/\1/p' "$WORK_DIR/$1.log" | tail -n 1)" +%s%N) / 1000000)); }

# Processor time of a process so far, in milliseconds.
cpu_ms() { awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print int(($12 + $13) * 1000 / hz) }' "/proc/$1/stat"; }

# killed WHAT SECONDS: kills it, starts it after so many seconds, and says how long it and the first answer took.
killed() {
    local what=$1 down=$2 start up cpu
    if [ "$what" = meta ]; then kill_hard "$META_PID"; else kill_hard "$DATA_PID"; fi
    sleep "$down"
    start=$(now_ms)
    "${what}_start"
    cpu=$(cpu_ms "$SPAWNED_PID")
    up=$(served_at "$what")
    wait_until 60 answered_after "$start" || { echo "no answer in 60 s"; return 1; }
    echo "$((up - start)) $(($(first_answer "$start") - up))" >>"$WORK_DIR/$what.times"
    tail -n 1 "$WORK_DIR/$what.times" | {
        read -r serves answers
        echo "$what: serves $serves ms after its start ($cpu ms of processor time), first answer $answers ms later (away for $down s)"
    }
}
# median COLUMN FILE: of its numbers.
median() { cut -d' ' -f"$1" "$2" | sort -n | awk '{ at[NR] = $1 } END { print at[int((NR + 1) / 2)] }'; }
# judged WHAT: one restart on a busy machine says little; the middle one of several does.
judged() {
    local serves answers
    serves=$(median 1 "$WORK_DIR/$1.times") answers=$(median 2 "$WORK_DIR/$1.times")
    [ "$serves" -lt "$SERVES" ] && ok "$1: serves again after $serves ms" || fail "$1: serves again after $serves ms, not $SERVES"
    [ "$answers" -lt "$ANSWERS" ] && ok "$1: first answer after $answers ms" || fail "$1: first answer after $answers ms, not $ANSWERS"
}
# Entries of the log that a restart has to carry out again.
behind() { "$(bin cairn)" status --meta "$META_ADDR" --json | jq '.meta.log_index - .meta.checkpoint_index'; }
tail_is_full() { [ "$(behind)" -ge "$FULL" ]; }

cluster_start 1
echo "making $inodes inodes"
mkdir "$MNT_A/tree"
python3 - "$MNT_A/tree" "$inodes" <<'PYTHON'
import os, sys
root, count = sys.argv[1], int(sys.argv[2])
for i in range(count):
    if i % 10000 == 0:
        at = f"{root}/{i}"
        os.mkdir(at)
        fd = os.open(at, os.O_RDONLY)
    os.mknod(f"f{i}", dir_fd=fd)
PYTHON
asker meta "$MNT_A"
# More of the log for each of them, as much as lies between two checkpoints at most.
python3 - "$MNT_A" <<'PYTHON' &
import os, sys
for i in range(10**9):
    os.mknod(f"{sys.argv[1]}/more{i}")
    if i % 3:
        os.unlink(f"{sys.argv[1]}/more{i}")
PYTHON
more=$!
LIB_PIDS+=("$more")
for kill in $(seq "$kills"); do
    if [ -n "$judge" ]; then
        wait_until 50 tail_is_full || echo "no $FULL entries behind a checkpoint in 50 s"
    else
        sleep "$((2 + RANDOM % 4))"
    fi
    echo "$(behind) entries behind the checkpoint, just before"
    killed meta "$((kill % 3))"
done
kill "$more" "$ASKER_PID"
echo "writing $gigabytes GB"
head -c "${gigabytes}G" /dev/urandom >"$MNT_A/large"
sync -f "$MNT_A"
asker data "$MNT_A"
for kill in $(seq "$kills"); do
    sleep "$((1 + RANDOM % 3))"
    killed data "$((kill % 3))"
done
kill "$ASKER_PID"
if [ -n "$judge" ]; then
    judged meta
    judged data
    cluster_stop || fail "the cluster did not end cleanly"
    exit "$failed"
fi
cluster_stop
