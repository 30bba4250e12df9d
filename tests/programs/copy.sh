#!/usr/bin/env bash
# cp -a and rsync -aHAX onto the directory and back: no difference in content, hard links, xattrs, ACLs, holes, fifos, times.
# Usage: copy.sh DIR
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
dir=$(readlink -f "$1")/copy
need_packages rsync acl attr python3
lib_trap
rm -rf "$dir"
work_dir
src=$WORK_DIR/src
python3 "$ROOT/tests/programs/gentree.py" "$src" 1500
head -c 3000000 /dev/urandom >"$src/random"
ln "$src/random" "$src/hard link with spaces"
ln -s random "$src/symlink"
ln -s /does/not/exist "$src/dangling"
mkfifo "$src/fifo"
truncate -s 50M "$src/sparse"
printf data | dd of="$src/sparse" bs=1 seek=20000000 conv=notrunc status=none
setfattr -n user.colour -v "blue and $(head -c 200 /dev/zero | tr '\0' x)" "$src/random"
setfattr -n user.empty "$src/sparse"
mkdir "$src/acl"
touch "$src/acl/file"
setfacl -m u:daemon:rw,g:bin:r,m:rw "$src/acl/file"
setfacl -m d:u:daemon:rwx,d:g:bin:rx "$src/acl"
touch "$src/acl/inherits"
touch -d '1969-12-31 23:59:58.5 UTC' "$src/before the epoch"
touch -d '2100-01-02 03:04:05.678901234 UTC' "$src/future"
touch "$src/"$'new\nline' "$src/ÄÖÜ-日本"
chmod 4755 "$src/future"
if is_root; then
    mknod "$src/device" c 1 3
    chown daemon:bin "$src/random"
fi

# All that can differ, one line each; a directory's own size is the file system's business.
picture() {
    (
        cd "$1"
        find . -print0 | sort -z | xargs -0 stat --printf '%n|%F|%a|%u|%g|%h|%Y.%y|%t:%T\n' | sed 's/|directory|\([^|]*|[^|]*|[^|]*\)|[0-9]*|/|directory|\1|-|/'
        find . -type f -print0 | sort -z | xargs -0 sha256sum
        find . -type l -printf '%p -> %l\n' | sort
        find . ! -type l -print0 | sort -z | xargs -0 getfacl -n -P
        find . ! -type l -print0 | sort -z | xargs -0 getfattr -P -d -h
        find . -type f -links +1 -printf '%i %p\n' | sort | awk '{ if (!($1 in seen)) seen[$1] = ++n; i = $1; $1 = ""; print "group", seen[i], $0 }' | sort -k3 | awk '{ if (!($2 in g)) g[$2] = ++n; $2 = g[$2]; print }'
    )
}
agree() {
    picture "$1" >"$WORK_DIR/one"
    picture "$2" >"$WORK_DIR/two"
    diff "$WORK_DIR/one" "$WORK_DIR/two" | head -n 30 >"$WORK_DIR/diff" || true
    [ ! -s "$WORK_DIR/diff" ] || { echo "copy: $3 differs"; cat "$WORK_DIR/diff"; exit 1; }
    echo "copy: $3 agrees"
}

mkdir -p "$dir" "$WORK_DIR/back"
cp -a "$src" "$dir/cp"
agree "$src" "$dir/cp" "cp -a there"
cp -a "$dir/cp" "$WORK_DIR/back/cp"
agree "$src" "$WORK_DIR/back/cp" "cp -a back"
[ "$(du -k "$WORK_DIR/back/cp/sparse" | cut -f1)" -lt 1000 ] || { echo "copy: holes were lost"; exit 1; }
[ "$(du -k "$dir/cp/sparse" | cut -f1)" -lt 1000 ] || { echo "copy: holes were filled"; exit 1; }
rsync -aHAX --sparse "$src/" "$dir/rsync/"
agree "$src" "$dir/rsync" "rsync there"
rsync -aHAX --sparse "$dir/rsync/" "$WORK_DIR/back/rsync/"
agree "$src" "$WORK_DIR/back/rsync" "rsync back"
# A second run with checksums finds nothing to do.
left=$(rsync -aHAXcni --delete "$src/" "$dir/rsync/")
[ -z "$left" ] || { echo "copy: rsync still sees differences:"; echo "$left" | head; exit 1; }
# Copies within the directory: content by reflink or copy_file_range.
cp -a "$dir/cp" "$dir/cp2"
agree "$src" "$dir/cp2" "cp -a inside"
mv "$dir/cp2" "$dir/moved"
agree "$src" "$dir/moved" "mv inside"
mv "$dir/moved" "$WORK_DIR/back/moved"
agree "$src" "$WORK_DIR/back/moved" "mv to another file system"
rm -rf "$dir"
