#!/usr/bin/env bash
# Procedures of docs/operating/recovery.md that no other test has, as they are written there: a data daemon is added when disks are full,
# the metadata daemon's disk is full, and files are saved from bare volumes.
# Usage: recovery.sh     makes clusters of its own, the full disks are images below the work directory
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
is_root || skip "full disks are mounted images, which only root can make"
need_packages python3 fuse3 e2fsprogs
lib_trap
work_dir
export CAIRN_RUN_DIR=$WORK_DIR/run

# small_disk DIR MIB: an ext4 of that size.
small_disk() {
    truncate -s "$2M" "$1.img"
    mkfs.ext4 -q -F "$1.img"
    mkdir -p "$1"
    mount -o loop "$1.img" "$1" || skip "no loop device can be mounted here"
    # The daemon on it ends later.
    at_end "umount -l '$1' 2>/dev/null"
}
# put FILE MIB: random bytes, synced.
put() { dd if=/dev/urandom of="$1" bs=1M count="$2" conv=fsync status=none 2>>"$WORK_DIR/refused"; }
refused() { if "$@" 2>>"$WORK_DIR/refused"; then return 1; else grep -q "No space left" "$WORK_DIR/refused"; fi; }
next_cluster() {
    cluster_stop || fail "a daemon does not end"
    rm -rf --one-file-system "$WORK_DIR/meta" "$WORK_DIR/data" 2>/dev/null || true
    unset META_ADDR DATA_ADDR META_PID DATA_PID MNT_A_PID MNT_B_PID
}

# ---- a data daemon is added when disks are full ----------------------------------------------------------------------
small_disk "$WORK_DIR/data" 360
cluster_start 2
put "$MNT_B/before" 1
refused put "$MNT_A/large" 120 && ok "a full disk: ENOSPC" || fail "120 MiB went onto a disk that has 100"
mkdir "$WORK_DIR/new"
spawn data-new "$(bin cairn-fsd)" data --data-dir "$WORK_DIR/new" --listen 127.0.0.1:0 --meta "$META_ADDR"
ADDED_PID=$SPAWNED_PID
wait_listening
# A mount that was told that all is full, and whose data waits; and one that has not noticed.
wait_until 10 put "$MNT_A/after" 20 || fail "the mount that met the full disk has no room 10 s after a data daemon was added"
for number in 1 2 3 4 5 6; do
    put "$MNT_B/other$number" 10 || fail "the other mount is told of a full disk while a daemon has room"
    sleep 0.3
done
# Also once the full one is tried again.
sleep 5
put "$MNT_B/later" 10 && put "$MNT_A/later too" 10 || fail "ENOSPC while a daemon has room"
[ "$(du -sm "$WORK_DIR/new" | cut -f1)" -ge 80 ] || fail "the new blocks are not on the new daemon"
rm "$MNT_A/large"
sync -f "$MNT_A"
fsck_clean && ok "a data daemon was added to full disks" || fail "fsck"
cluster_stop || fail "a daemon does not end"
stop "$ADDED_PID" || fail "the added daemon does not end"
umount "$WORK_DIR/data"
next_cluster

# ---- the metadata daemon's disk is full ------------------------------------------------------------------------------
free() { df -B1 --output=avail "$WORK_DIR/meta" | tail -n 1 | tr -d ' '; }
small_disk "$WORK_DIR/meta" 300
cluster_start 2
mkdir "$MNT_A/dir"
python3 - "$MNT_A/dir" <<'PYTHON'
import os, sys
for i in range(1, 501):
    with open(f"{sys.argv[1]}/{i}", "w") as f:
        print(i, file=f, flush=True)
        os.fsync(f.fileno())
PYTHON
fallocate -l "$(($(free) - (60 << 20)))" "$WORK_DIR/meta/something-else"
refused touch "$MNT_A/new" && ok "the metadata's disk is nearly full: ENOSPC" || fail "a file was made on a full disk"
wait_until 5 line_in "of the metadata directory's disk are free" "$WORK_DIR/meta.log" || fail "the log does not say that the metadata's disk is full"
dd if=/dev/zero of="$WORK_DIR/meta/more" bs=1M count=300 status=none 2>/dev/null || true
[ "$(free)" = 0 ] || fail "the disk has $(free) bytes free"
refused touch "$MNT_A/new" || fail "a file was made on a disk without a byte"
[ "$(cat "$MNT_B/dir/77")" = 77 ] || fail "reads do not go on"
timeout 20 rm "$MNT_A"/dir/1?? && timeout 20 sync "$MNT_A/dir" && ok "removing works without a byte free" || fail "removing does not work"
stop "$META_PID" || fail "the metadata daemon does not end"
meta_start && timeout 40 rm "$MNT_B"/dir/2?? && ok "also after a restart" || fail "removing after a restart"
rm "$WORK_DIR/meta/something-else" "$WORK_DIR/meta/more"
makes() { touch "$MNT_A/new" && sync "$MNT_A/new"; }
wait_until 10 makes && ok "with room, it goes on by itself" || fail "there is room, and no file can be made"
[ "$(ls "$MNT_B/dir" | wc -l)" = 300 ] || fail "$(ls "$MNT_B/dir" | wc -l) files are left of 300"
fsck_clean || fail "fsck"
cluster_stop || fail "a daemon does not end"
umount "$WORK_DIR/meta"
next_cluster

# ---- files from bare volumes -----------------------------------------------------------------------------------------
cluster_start 1
python3 - "$MNT_A" "$WORK_DIR/expected" <<'PYTHON'
import os, sys
tree, expected = sys.argv[1:]
os.mkdir(expected)
def both(name, data, offset=0, flags=os.O_CREAT):
    for path in (f"{tree}/{name}", f"{expected}/{name}"):
        f = os.open(path, os.O_WRONLY | flags)
        os.pwrite(f, data, offset)
        os.fsync(f)
        os.close(f)
both("large", os.urandom(9 << 20))
for i in range(20):
    both(f"small{i}", os.urandom(40_000 + i))
# Over what is there, and beyond a hole.
both("large", os.urandom(300_000), 5_000_000)
both("sparse", os.urandom(100_000), 1 << 20)
with open(f"{expected}.inodes", "w") as inodes:
    for name in os.listdir(expected):
        print(name, os.stat(f"{tree}/{name}").st_ino, file=inodes)
PYTHON
cluster_stop || fail "a daemon does not end"
rm -r "$WORK_DIR/meta"
unset META_ADDR
meta_start
code=0
timeout 20 "$(bin cairn-fsd)" data --data-dir "$WORK_DIR/data" --listen 127.0.0.1:0 --meta "$META_ADDR" >"$WORK_DIR/refused" 2>&1 || code=$?
[ "$code" = 1 ] && grep -q "peer belongs to cluster" "$WORK_DIR/refused" && ok "an empty metadata directory is refused" ||
    fail "exit code $code with an empty metadata directory: $(cat "$WORK_DIR/refused")"
SAVED=$WORK_DIR/saved
mkdir "$SAVED"
# As it stands in the text.
sed -n '/^       for f in vol-/,/^       rm -f/s/^       //p' "$ROOT/docs/operating/recovery.md" >"$WORK_DIR/save.sh"
[ -s "$WORK_DIR/save.sh" ] || fail "the text has no commands"
(cd "$WORK_DIR/data" && PATH=$(dirname "$(bin cairn)"):$PATH SAVED=$SAVED bash -eu "$WORK_DIR/save.sh") || fail "the commands of the text fail"
while read -r name inode; do
    cmp "$WORK_DIR/expected/$name" "$SAVED/inode-$inode" || fail "$name is not saved"
done <"$WORK_DIR/expected.inodes"
[ "$(ls "$SAVED" | wc -l)" = 22 ] || fail "there are $(ls "$SAVED")"
ok "files are saved from bare volumes"

[ "$failed" = 0 ] || exit 1
echo "recovery passed"
