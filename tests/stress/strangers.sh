#!/usr/bin/env bash
# Strangers at the ports of both daemons, while a mount works beside them.
# Usage: strangers.sh      makes a cluster of its own
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
need_packages python3 fuse3 jq util-linux
lib_trap
work_dir
# The test itself needs many descriptors; what it starts has as few as most services, and has to see to that.
ulimit -H -n 40000 2>/dev/null || true
ulimit -S -n 1024
cluster_start 1
mkdir "$MNT_A/t"
head -c 4194304 /dev/urandom >"$MNT_A/large"
sync "$MNT_A/large"
volume=$(find "$WORK_DIR/data" -name 'vol-*.cv' | sort | head -n 1)
block=$("$(bin cairn)" volume list "$volume" --json | jq -r 'select(.length > 4194304) | "\(.block):\(.cookie)"' | head -n 1)
[ -n "$block" ] || die "no large block in $volume"
python3 "$ROOT/tests/stress/strangers.py" "$MNT_A/t" "1:$block" \
    "meta=$META_ADDR=$META_PID=$WORK_DIR/meta.log" "data=$DATA_ADDR=$DATA_PID=$WORK_DIR/data.log"
# New mounts still come in.
mount_at "$WORK_DIR/mnt-c"
stat "$WORK_DIR/mnt-c/t" >/dev/null
unmount "$WORK_DIR/mnt-c"
cluster_stop
