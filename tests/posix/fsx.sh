#!/usr/bin/env bash
# fsx on a directory: 5 fixed and 3 random seeds (printed), 100,000 operations each, all at the same time: a seventh of the
# operations are an msync that waits for the disks, and what waits together is synced together.
# Usage: fsx.sh DIR [SEED...]    FSX_OPS=N changes the number of operations
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
[ $# -ge 1 ] || die "usage: fsx.sh DIR [SEED...]"
dir=$(readlink -f "$1")
shift
ops=${FSX_OPS:-100000}
need_crate_tool fsx 0.3.2 "$ROOT/tests/posix/fsx-munmap.patch"
lib_trap
work_dir

if [ $# -gt 0 ]; then
    seeds=("$@")
else
    seeds=(1 2 3 20240229 4294967291)
    for _ in 1 2 3; do seeds+=("$((RANDOM << 30 | RANDOM << 15 | RANDOM))"); done
fi
echo "fsx: $ops operations each; seeds ${seeds[*]}"

one() {
    local seed=$1 file="$dir/fsx-$1" log="$WORK_DIR/fsx-$1.log"
    mkdir -p "$WORK_DIR/artifacts-$seed"
    if timeout 1400 "$(tool fsx)" -q -f "$ROOT/tests/posix/fsx.toml" -N "$ops" -S "$seed" -P "$WORK_DIR/artifacts-$seed" "$file" >"$log" 2>&1; then
        echo "fsx: seed $seed passed"
        rm -f "$file"
    else
        echo "fsx: seed $seed FAILED (repeat: $0 $dir $seed)"
        tail -n 40 "$log"
        return 1
    fi
}
export -f one tool
export dir ops WORK_DIR ROOT TOOLS_DIR
printf '%s\n' "${seeds[@]}" | xargs -P "${#seeds[@]}" -I{} bash -c 'one {}'
