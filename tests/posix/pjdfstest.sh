#!/usr/bin/env bash
# pjdfstest on a directory, and on ext4 in the same run: nothing may fail, and as many must pass as on ext4.
# Usage: pjdfstest.sh DIR [PATTERN...]   (root only: the tests switch users)
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
[ $# -ge 1 ] || die "usage: pjdfstest.sh DIR [PATTERN...]"
dir=$(readlink -f "$1")
shift
is_root || skip "pjdfstest switches users, which needs root"
need_packages e2fsprogs acl
need_crate_tool pjdfstest 0.2.2
lib_trap
# A short path: sockets are made below it, and their addresses have room for 107 characters.
TMPDIR=/tmp work_dir

# ext4 on a loop device; where loop devices are not allowed, whatever file system the work directory is on.
reference=$WORK_DIR/reference
mkdir -p "$reference"
truncate -s 512M "$WORK_DIR/ext4.img"
mkfs.ext4 -q -F "$WORK_DIR/ext4.img"
if mount -o loop "$WORK_DIR/ext4.img" "$reference" 2>/dev/null; then
    LIB_MOUNTS+=("$reference")
else
    say "no loop device: the reference is $(stat -f -c %T "$WORK_DIR"), not a fresh ext4"
fi
chmod 755 "$reference"

# safe_dir PATH: a directory below it for the suite. For one length in 127, pjdfstest's own arithmetic overflows when it builds
# a path of PATH_MAX (it adds 22 characters to ours): keep away from it.
safe_dir() {
    local path=$1/pjd
    [ $(((4095 - 22 - ${#path}) % 127)) != 0 ] || path+=s
    mkdir -p "$path"
    chmod 755 "$path"
    printf '%s' "$path"
}

# run CONFIG PATH LOG PATTERN...: leaves "failed skipped passed" in COUNTS.
run() {
    local config=$1 path=$2 log=$3
    shift 3
    RUST_BACKTRACE=0 timeout 600 "$(tool pjdfstest)" -c "$config" -p "$path" "$@" >"$log" 2>&1 || true
    COUNTS=$(sed -E 's/\x1b\[[0-9;]*m//g' "$log" | sed -nE 's/^Summary: ([0-9]+) failed, ([0-9]+) skipped, ([0-9]+) passed.*/\1 \2 \3/p')
    [ -n "$COUNTS" ] || { tail -n 20 "$log" >&2; die "pjdfstest gave no summary on $path"; }
}

result=0
plain() { sed -E 's/\x1b\[[0-9;]*m//g' "$1"; }
passed_names() { plain "$1" | sed -nE 's/^([a-z][^ ]*) +ok$/\1/p' | sort; }
show_failures() { plain "$1" | grep -A 3 'FAILED$' | head -n 120; }

compare() {
    local name=$1 extra=$2 config="$WORK_DIR/$1.toml" missing
    shift 2
    sed "s/^@EXTRA@\$/$extra/" "$ROOT/tests/posix/pjdfstest.toml" | tr '\r' '\n' >"$config"
    run "$config" "$(safe_dir "$reference")" "$WORK_DIR/$name.ext4.log" "$@"
    local ref=$COUNTS
    run "$config" "$(safe_dir "$dir")" "$WORK_DIR/$name.log" "$@"
    set -- $ref $COUNTS
    echo "pjdfstest ($name): ext4 $3 passed, $1 failed, $2 skipped; $dir $6 passed, $4 failed, $5 skipped"
    [ "$1" = 0 ] || { echo "the reference itself failed:"; show_failures "$WORK_DIR/$name.ext4.log"; result=1; }
    [ "$4" = 0 ] || { show_failures "$WORK_DIR/$name.log"; result=1; }
    missing=$(comm -23 <(passed_names "$WORK_DIR/$name.ext4.log") <(passed_names "$WORK_DIR/$name.log"))
    # glibc knows the link limit of each file system by a table, in which FUSE is not: it answers 127, and this test then skips
    # itself. The check is made below in its place; nothing else may be missing.
    if [ "$missing" = link::link_count_max ] && [ "$(getconf LINK_MAX "$dir")" = 127 ]; then
        count_links=1
    elif [ -n "$missing" ]; then
        echo "passed on ext4, not here: $missing"
        result=1
    fi
}

# What link::link_count_max would do: as many links as the file system promises, then EMLINK.
link_limit() {
    mkdir -p "$dir/links"
    python3 - "$dir/links" "$1" <<'P'
import errno, os, sys, threading
root, limit = sys.argv[1], int(sys.argv[2])
open(f"{root}/file", "w").close()
def add(which):
    for i in range(which, limit - 1, 4):
        os.link(f"{root}/file", f"{root}/{i}")
threads = [threading.Thread(target=add, args=(which,)) for which in range(4)]
for t in threads: t.start()
for t in threads: t.join()
assert os.stat(f"{root}/file").st_nlink == limit, os.stat(f"{root}/file").st_nlink
try:
    os.link(f"{root}/file", f"{root}/one too many")
    sys.exit("one link too many was made")
except OSError as e:
    assert e.errno == errno.EMLINK, e
os.unlink(f"{root}/0")
os.link(f"{root}/file", f"{root}/again")
P
}

count_links=
compare "accepted features" "" "$@"
# More than was asked: the features that Linux file systems have beside those.
compare "all features" "rename_ctime = {}\rutime_now = {}" "$@"
if [ -n "$count_links" ]; then
    limit=$(sed -nE 's/^pub const LINK_MAX: u32 = ([0-9_]+);.*/\1/p' "$ROOT/common/src/limits.rs" | tr -d _)
    if link_limit "$limit"; then
        echo "link::link_count_max: skipped itself (glibc knows no limit for FUSE); in its place: $limit links, then EMLINK: ok"
    else
        echo "FAILED: the link limit"
        result=1
    fi
fi
exit $result
