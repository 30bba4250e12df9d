#!/usr/bin/env bash
# Memory of each process stays under its limits (caches + dirty data + 200 MB) while a large file streams through and while many
# files are made; idle, the three daemons together use less than 0.3 % CPU (idle.py); small files reach the data daemon packed.
# Usage: bounded.sh [--long]     default 2 GB and 30,000 files; --long 20 GB and a million files
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
stream_mb=2048 files=30000 idle_seconds=60
[ "${1:-}" = --long ] && { stream_mb=20480 files=1000000 idle_seconds=120; }
need_packages python3 fuse3 jq
lib_trap
work_dir
# Small caches, so that the limit is reached by what the short run does.
cache_mb=128 dirty_mb=64
MOUNT_OPTS=allow_other,cache=${cache_mb}M,dirty=${dirty_mb}M
mount_limit=$((cache_mb + dirty_mb + 200))
meta_limit=${META_LIMIT_MB:-456}
data_limit=${DATA_LIMIT_MB:-264}
cluster_start 1

peak_mb() { awk '/^VmHWM/ { printf "%d", $2 / 1024 }' "/proc/$1/status"; }
memory() {
    local what=$1 name pid limit peak
    for name in meta:$META_PID:$meta_limit data:$DATA_PID:$data_limit mount:$MNT_A_PID:$mount_limit; do
        IFS=: read -r name pid limit <<<"$name"
        peak=$(peak_mb "$pid")
        echo "$what: $name peak $peak MB (limit $limit)"
        [ "$peak" -le "$limit" ] || { echo "FAILED: $name took $peak MB, its limit is $limit MB"; failed=1; }
    done
}

# ---- packing: counted before anything else has used the data daemon ---------------------------------------------------
puts() { "$(bin cairn)" status --meta "$META_ADDR" --json | jq '[.data.nodes[]?.puts] | add // empty'; }
before=$(puts || true)
python3 - "$MNT_A/packed" <<'P'
import os, sys
os.mkdir(sys.argv[1])
data = os.urandom(4096)
for i in range(10000):
    fd = os.open(f"{sys.argv[1]}/{i}", os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, data)
    os.close(fd)
P
sync -f "$MNT_A"
after=$(puts || true)
if [ -n "$before" ] && [ -n "$after" ]; then
    echo "packing: 10,000 files of 4 KiB reached the data daemon in $((after - before)) puts (limit 100)"
    [ $((after - before)) -lt 100 ] || { echo "FAILED: not packed"; failed=1; }
else
    echo "FAILED: cairn status --json has no data.nodes[].puts"
    failed=1
fi

# ---- idle ------------------------------------------------------------------------------------------------------------
# What was done is worked up: the checkpoint comes a minute after the first change.
settled() {
    "$(bin cairn)" status --meta "$META_ADDR" --json | jq -e '.meta.checkpoint_index == .meta.log_index' >/dev/null
}
wait_until 90 settled || { echo "FAILED: no checkpoint 90 s after the last change"; failed=1; }
python3 "$ROOT/tests/stress/idle.py" "$idle_seconds" "$META_PID" "$DATA_PID" "$MNT_A_PID" || {
    echo "FAILED: not idle"
    failed=1
    "$(bin cairn)" status --meta "$META_ADDR" --json | jq -c .meta || true
}

# ---- stream ----------------------------------------------------------------------------------------------------------
start=$SECONDS
python3 - "$MNT_A/stream" "$stream_mb" <<'P'
import os, sys
path, count = sys.argv[1], int(sys.argv[2])
block = bytearray(os.urandom(1 << 20))
fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
for i in range(count):
    block[:8] = i.to_bytes(8, "big")
    assert os.write(fd, block) == 1 << 20
os.fsync(fd)
os.close(fd)
fd = os.open(path, os.O_RDONLY)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
for i in range(count):
    data = os.read(fd, 1 << 20)
    while len(data) < 1 << 20:
        more = os.read(fd, (1 << 20) - len(data))
        assert more, "the file is short"
        data += more
    block[:8] = i.to_bytes(8, "big")
    assert data == block, f"megabyte {i} differs"
P
echo "stream: $stream_mb MB written and read back in $((SECONDS - start)) s"
memory stream
rm "$MNT_A/stream"

# ---- many files ------------------------------------------------------------------------------------------------------
start=$SECONDS
python3 - "$MNT_A/many" "$files" <<'P'
import os, sys, threading
root, count = sys.argv[1], int(sys.argv[2])
os.mkdir(root)
def make(which):
    for i in range(which, count, 4):
        if i % 1000 == which:
            os.makedirs(f"{root}/{which}/{i // 1000}", exist_ok=True)
        fd = os.open(f"{root}/{which}/{i // 1000}/{i}", os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(fd, b"%d" % i)
        os.close(fd)
threads = [threading.Thread(target=make, args=(which,)) for which in range(4)]
for t in threads: t.start()
for t in threads: t.join()
P
echo "files: $files made in $((SECONDS - start)) s"
[ "$(find "$MNT_A/many" -type f | wc -l)" = "$files" ] || { echo "FAILED: find sees another number of files"; failed=1; }
memory files
cluster_stop || { echo "FAILED: the cluster did not end cleanly"; failed=1; }
exit $failed
