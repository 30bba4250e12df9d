#!/usr/bin/env bash
# Strangers at the ports of both daemons, while a mount works beside them.
# Usage: strangers.sh      makes a cluster of its own
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
need_packages python3 fuse3 util-linux
lib_trap
work_dir
# The test itself needs many descriptors; what it starts has as few as most services, and has to see to that.
ulimit -H -n 40000 2>/dev/null || true
ulimit -S -n 1024
cluster_start 1
mkdir "$MNT_A/t"
python3 "$ROOT/tests/stress/strangers.py" "$MNT_A/t" \
    "meta=$META_ADDR=$META_PID=$WORK_DIR/meta.log" "data=$DATA_ADDR=$DATA_PID=$WORK_DIR/data.log"
# New mounts still come in.
mount_at "$WORK_DIR/mnt-c"
stat "$WORK_DIR/mnt-c/t" >/dev/null
unmount "$WORK_DIR/mnt-c"
cluster_stop
