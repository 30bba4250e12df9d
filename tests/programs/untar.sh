#!/usr/bin/env bash
# tar x of a source tree of 10,000 files: every checksum, mode, time and link as in the original; tar c gives the same archive.
# Usage: untar.sh DIR [FILES]
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
dir=$(readlink -f "$1")/untar
files=${2:-10000}
need_packages tar python3 coreutils
lib_trap
rm -rf "$dir"
work_dir
python3 "$ROOT/tests/programs/gentree.py" "$WORK_DIR/src" "$files"
# The posix format keeps nanoseconds; access and change times are no property of the tree.
pack() { tar -C "$1" --sort=name --format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -cf - src; }
pack "$WORK_DIR" >"$WORK_DIR/src.tar"
(cd "$WORK_DIR/src" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$WORK_DIR/sums"

mkdir -p "$dir"
tar -C "$dir" -xf "$WORK_DIR/src.tar"
(cd "$dir/src" && sha256sum --quiet -c "$WORK_DIR/sums")
echo "untar: $(wc -l <"$WORK_DIR/sums") checksums agree"
tar -C "$dir" --compare -f "$WORK_DIR/src.tar"
# The same archive again, byte for byte: names, content, modes, owners, times, hard and symbolic links.
pack "$dir" | cmp - "$WORK_DIR/src.tar"
echo "untar: packing the tree again gives the same archive"
rm -rf "$dir"
[ ! -e "$dir" ]
