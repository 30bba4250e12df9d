#!/usr/bin/env bash
# Procedures of docs/operating/recovery.md that no other test has, as they are written there: full disks of data daemons and of the metadata
# daemon, a damaged block, a data disk that is lost, copies of the metadata that are put back, files from bare volumes.
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
# small_memory DIR MIB, and enlarge DIR MIB to that size while it is in use: a tmpfs. Growing a mounted ext4 needs CAP_SYS_RESOURCE,
# which root of a container does not have; what the daemons see is the same.
small_memory() {
    mkdir -p "$1"
    mount -t tmpfs -o "size=$2M" none "$1"
    at_end "umount -l '$1' 2>/dev/null"
}
enlarge() { mount -o "remount,size=$2M" "$1"; }
# put FILE MIB: random bytes, synced.
put() { dd if=/dev/urandom of="$1" bs=1M count="$2" conv=fsync status=none 2>>"$WORK_DIR/refused"; }
refused() { : >"$WORK_DIR/refused"; if "$@" 2>>"$WORK_DIR/refused"; then return 1; else grep -q "No space left" "$WORK_DIR/refused"; fi; }
# plain FROM TO: copied as most programs do it, nothing synced. Says which call told of an error.
plain() {
    python3 - "$@" <<'PYTHON'
import errno, os, sys
data, step = open(sys.argv[1], "rb").read(), "open"
try:
    fd = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT, 0o644)
    step = "write"
    while data:
        data = data[os.write(fd, data[:1 << 20]):]
    step = "close"
    os.close(fd)
except OSError as error:
    print(step, errno.errorcode[error.errno])
PYTHON
}
# files DIR COUNT KIB: as many files of random bytes, 01 and so on.
files() {
    local number
    for number in $(seq -f %02g "$2"); do dd if=/dev/urandom of="$1/$number" bs=1K count="$3" status=none; done
}
# store DIR FILE...: copied to the first mount, synced.
store() {
    local dir=$1
    shift
    (cd "$dir" && cp "$@" "$MNT_A/" && cd "$MNT_A" && sync "$@")
}
# fsck CODE [OPTION]...: of the cluster. The files that it names are in $WORK_DIR/named, its report in $WORK_DIR/fsck.txt.
fsck() {
    local expected=$1 code=0
    shift
    "$(bin cairn)" fsck --meta "$META_ADDR" "$@" >"$WORK_DIR/fsck.txt" 2>&1 || code=$?
    sed -n 's/^ *in \///p' "$WORK_DIR/fsck.txt" | sort -u >"$WORK_DIR/named"
    [ "$code" = "$expected" ] || { fail "cairn fsck $*: exit code $code, not $expected: $(cat "$WORK_DIR/fsck.txt")"; return 1; }
}
# fsck_ends CODE: the same, within 10 s: mounts tell of files that are closed a moment later.
fsck_ends() {
    local start=$SECONDS code
    while code=0; "$(bin cairn)" fsck --meta "$META_ADDR" >"$WORK_DIR/fsck.txt" 2>&1 || code=$?; [ "$code" != "$1" ]; do
        [ $((SECONDS - start)) -lt 10 ] || { fail "cairn fsck: exit code $code, not $1: $(cat "$WORK_DIR/fsck.txt")"; return 1; }
        sleep 0.2
    done
}
# restore NAME...: these files are removed, and come back from the backup; all are what they were then, for the second mount.
restore() {
    (cd "$MNT_A" && rm -f "$@") && store "$WORK_DIR/backup" "$@" && same
}
same() { diff -r "$WORK_DIR/backup" "$MNT_B"; }
# The second mount anew, so that it knows nothing.
again_b() {
    unmount "$MNT_B" || fail "the second mount does not end"
    cluster_second
}
next_cluster() {
    cluster_stop || fail "a daemon does not end"
    rm -rf --one-file-system "$WORK_DIR/meta" "$WORK_DIR/data" 2>/dev/null || true
    unset META_ADDR DATA_ADDR META_PID DATA_PID MNT_A_PID MNT_B_PID
}

# ---- a data daemon is added when disks are full ----------------------------------------------------------------------
small_disk "$WORK_DIR/data" 360
cluster_start 2
put "$MNT_B/before" 1
refused put "$MNT_A/large" 120 && ok "a full disk: ENOSPC" || fail "120 MiB went onto a disk that has 50"
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

# ---- what goes on while a data daemon's disk is full, and removing ---------------------------------------------------
small_disk "$WORK_DIR/data" 360
cluster_start 2
mkdir "$WORK_DIR/old"
files "$WORK_DIR/old" 4 2000
dd if=/dev/urandom of="$WORK_DIR/old/plain" bs=1M count=8 status=none
declare -A told
plain_synced() { dd if="$WORK_DIR/old/plain" of="$MNT_B/synced" bs=1M conv=fsync status=none; }
store "$WORK_DIR/old" 01 02 03 04
# full FILE: no more goes in; what the mount has of it and can't store takes what is given back meanwhile.
full() { refused put "$1" 120 || fail "120 MiB went onto a disk that has 50"; }
full "$MNT_A/large"
cmp "$MNT_B/01" "$WORK_DIR/old/01" && ok "files are read from a full disk" || fail "a file can't be read from a full disk"
timeout 20 truncate -s 5000 "$MNT_B/02" && timeout 20 sync "$MNT_B/02" && cmp "$MNT_A/02" <(head -c 5000 "$WORK_DIR/old/02") && ok "cut" || fail "a file can't be cut on a full disk"
timeout 20 mv "$MNT_A/03" "$MNT_A/moved" && timeout 20 sync "$MNT_A" && cmp "$MNT_B/moved" "$WORK_DIR/old/03" && [ ! -e "$MNT_B/03" ] && ok "moved" || fail "a file can't be moved on a full disk"
timeout 20 rm "$MNT_B/04" && timeout 20 sync "$MNT_B" && [ ! -e "$MNT_A/04" ] && ok "removed" || fail "a file can't be removed on a full disk"
# Of what is not synced: who was told of no error finds the bytes there in the end, and the log says that they wait.
full "$MNT_A/more"
for mount in a b; do
    told[$mount]=$(plain "$WORK_DIR/old/plain" "$WORK_DIR/mnt-$mount/plain-$mount")
    case ${told[$mount]} in '' | *ENOSPC) ;; *) fail "a write on a full disk: ${told[$mount]}" ;; esac
    wait_until 5 line_in "written data of .* is not stored: no space left" "$WORK_DIR/mount-mnt-$mount.log" || fail "the log of mount $mount does not say that data waits"
done
refused plain_synced || fail "an fsync on a full disk says nothing"
rm "$MNT_A/large" "$MNT_A/more" "$MNT_A/synced"
for mount in a b; do
    [ -z "${told[$mount]}" ] || continue
    there() { cmp "$WORK_DIR/old/plain" "$MNT_A/plain-$mount" && cmp "$WORK_DIR/old/plain" "$MNT_B/plain-$mount"; }
    wait_until 10 there || fail "mount $mount took a write on a full disk, and the bytes are not there"
done
ok "writes that are not synced: ${told[a]:-kept until there was room}, ${told[b]:-kept until there was room}; an fsync is told"
rm "$MNT_A"/plain-*
wait_until 10 put "$MNT_A/new" 20 || fail "the mount that met the full disk has no room 10 s after files were removed"
wait_until 10 put "$MNT_B/new too" 10 && ok "files were removed from a full disk: it goes on there" || fail "the other mount has no room after files were removed"
cmp "$MNT_B/01" "$WORK_DIR/old/01" && cmp "$MNT_A/moved" "$WORK_DIR/old/03" || fail "old files are not what they were"
fsck 0
cluster_stop || fail "a daemon does not end"
umount "$WORK_DIR/data"
next_cluster

# ---- or their file system is made larger -----------------------------------------------------------------------------
small_memory "$WORK_DIR/data" 360
cluster_start 2
refused put "$MNT_A/large" 120 || fail "120 MiB went onto a disk that has 50"
enlarge "$WORK_DIR/data" 700
wait_until 10 put "$MNT_A/after" 120 || fail "the mount that met the full disk has no room 10 s after it was made larger"
put "$MNT_B/other" 50 && ok "a full disk was made larger" || fail "the other mount has no room on a disk that was made larger"
fsck_clean || fail "fsck"
cluster_stop || fail "a daemon does not end"
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
echo old >"$MNT_A/dir/held"
sync "$MNT_A/dir/held"
exec 9<>"$MNT_A/dir/held"
fallocate -l "$(($(free) - (60 << 20)))" "$WORK_DIR/meta/something-else"
refused touch "$MNT_A/new" && ok "the metadata's disk is nearly full: ENOSPC" || fail "a file was made on a full disk"
wait_until 5 line_in "of the metadata directory's disk are free" "$WORK_DIR/meta.log" || fail "the log does not say that the metadata's disk is full"
# shows_full WHEN: as the text has it, each mount shows nothing available, and `cairn status` says why, beside what the data daemons' disks have.
none_free() { [ "$(df --output=avail "$1" | tail -n 1)" -eq 0 ]; }
some_free() { [ "$(df --output=avail "$1" | tail -n 1)" -gt 0 ]; }
shows_full() {
    local mount
    for mount in "$MNT_A" "$MNT_B"; do
        wait_until 5 none_free "$mount" || fail "the metadata's disk is $1: df of $mount shows $(df --output=avail "$mount" | tail -n 1) KiB"
    done
    timeout 20 "$(bin cairn)" status --meta "$META_ADDR" >"$WORK_DIR/status" 2>&1 || fail "the metadata's disk is $1: cairn status fails"
    grep -q "^data 1 .* up, [0-9.]* [MGT]iB of .* free" "$WORK_DIR/status" && grep -q "^space     0 B of .* free" "$WORK_DIR/status" &&
        grep -q "the metadata daemon's disk is full" "$WORK_DIR/status" && ok "the metadata's disk is $1: df and cairn status are right" ||
        fail "the metadata's disk is $1: $(cat "$WORK_DIR/status")"
}
shows_full "nearly full"
# What one mount has written and nobody can store is not lost because another mount needs the file.
printf new >&9
refused cat "$MNT_B/dir/held" && ok "a file that another mount can't store is not opened without that" || fail "the other mount reads '$(cat "$MNT_B/dir/held")'"
dd if=/dev/zero of="$WORK_DIR/meta/more" bs=1M count=300 status=none 2>/dev/null || true
[ "$(free)" = 0 ] || fail "the disk has $(free) bytes free"
refused touch "$MNT_A/new" || fail "a file was made on a disk without a byte"
shows_full "full to the last byte"
[ "$(cat "$MNT_B/dir/77")" = 77 ] || fail "reads do not go on"
timeout 20 rm "$MNT_A"/dir/1?? && timeout 20 sync "$MNT_A/dir" && ok "removing works without a byte free" || fail "removing does not work"
stop "$META_PID" || fail "the metadata daemon does not end"
# The daemon must not inherit the open file.
meta_start 9>&- && timeout 40 rm "$MNT_B"/dir/2?? && ok "also after a restart" || fail "removing after a restart"
rm "$WORK_DIR/meta/something-else" "$WORK_DIR/meta/more"
makes() { touch "$MNT_A/new" && sync "$MNT_A/new"; }
wait_until 10 makes && ok "with room, it goes on by itself" || fail "there is room, and no file can be made"
for mount in "$MNT_A" "$MNT_B"; do wait_until 5 some_free "$mount" || fail "there is room, and df of $mount shows none"; done
holds_new() { [ "$(cat "$MNT_B/dir/held")" = new ]; }
wait_until 10 holds_new && ok "what waited for room is stored" || fail "the other mount reads '$(cat "$MNT_B/dir/held")'"
exec 9>&-
rm "$MNT_B/dir/held"
fallocate -l "$(($(free) - (60 << 20)))" "$WORK_DIR/meta/something-else"
makes() { touch "$MNT_A/newer" && sync "$MNT_A/newer"; }
refused makes || fail "a file was made on a disk that is full again"
kill "$META_PID" && wait_until 20 gone "$META_PID" || fail "the metadata daemon does not end"
rm "$WORK_DIR/meta/something-else"
small_memory "$WORK_DIR/larger" 300
cp -a "$WORK_DIR/meta/." "$WORK_DIR/larger/"
umount "$WORK_DIR/meta"
mount --move "$WORK_DIR/larger" "$WORK_DIR/meta"
meta_start
wait_until 10 makes && ok "with its directory on another disk, it goes on" || fail "the directory was moved, and no file can be made"
fallocate -l "$(($(free) - (60 << 20)))" "$WORK_DIR/meta/something-else"
makes() { touch "$MNT_A/newest" && sync "$MNT_A/newest"; }
refused makes || fail "a file was made on a disk that is full again"
enlarge "$WORK_DIR/meta" 600
wait_until 10 makes && ok "on a disk that was made larger, it goes on by itself" || fail "the disk was made larger, and no file can be made"
[ "$(ls "$MNT_B/dir" | wc -l)" = 300 ] || fail "$(ls "$MNT_B/dir" | wc -l) files are left of 300"
fsck_clean || fail "fsck"
cluster_stop || fail "a daemon does not end"
umount "$WORK_DIR/meta"
next_cluster

# ---- a damaged block -------------------------------------------------------------------------------------------------
# Small volumes: what is lost below is a part of them.
DATA_ARGS="--volume-size 16M"
cluster_start 2
mkdir "$WORK_DIR/backup" "$WORK_DIR/rescued"
files "$WORK_DIR/backup" 40 30
printf 'FLIP%.0s' {1..8000} >"$WORK_DIR/backup/17"
cp "$WORK_DIR"/backup/* "$MNT_A/"
# All in one block, by themselves: a small file that is synced is in the metadata only at first.
has_it() { volume=$(grep -l -a FLIPFLIP "$WORK_DIR"/data/vol-*.cv); }
wait_until 10 has_it || fail "small files are not stored"
sync "$MNT_A"/*
stop "$DATA_PID" || fail "the data daemon does not end"
python3 - "$volume" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(f.read().find(b"FLIPFLIP") + 1000)
    f.write(b"flip")
PYTHON
data_start
# 1. and 2., as they are written.
fsck 4
damaged=$(sed -n 's/^PROBLEM *block [0-9]*\/\([0-9]*\):.* is damaged.*/block \1 .*is damaged/p' "$WORK_DIR/fsck.txt")
lost=0
while read -r name; do
    cp "$MNT_B/$name" "$WORK_DIR/rescued/" 2>>"$WORK_DIR/cp.err" || { rm -f "$WORK_DIR/rescued/$name"; lost=$((lost + 1)); }
done <"$WORK_DIR/named"
grep -qx 17 "$WORK_DIR/named" && [ "$lost" -gt 0 ] && [ "$lost" = "$(grep -c "Input/output error" "$WORK_DIR/cp.err")" ] && [ ! -e "$WORK_DIR/rescued/17" ] ||
    fail "of $(wc -l <"$WORK_DIR/named") files with parts in it $lost can't be read: $(cat "$WORK_DIR/cp.err")"
for log in data mount-mnt-b; do
    grep -q "$damaged" "$WORK_DIR/$log.log" || fail "$log.log does not say '$damaged'"
done
mapfile -t named <"$WORK_DIR/named"
(cd "$MNT_A" && rm "${named[@]}")
cp "$WORK_DIR"/rescued/* "$MNT_A/"
for name in "${named[@]}"; do [ -e "$WORK_DIR/rescued/$name" ] || cp "$WORK_DIR/backup/$name" "$MNT_A/"; done
# 3.
fsck_ends 0 && same && ok "a damaged block: $lost of ${#named[@]} files came from the backup" || fail "the files are not what they were"

# ---- a data daemon's disk is lost ------------------------------------------------------------------------------------
# More than two volumes.
files "$WORK_DIR/backup" 4 9000
store "$WORK_DIR/backup" 01 02 03 04
again_b
# It can be read in part: one volume can't, of the last one only the beginning.
kill_hard "$DATA_PID"
mv "$WORK_DIR/data" "$WORK_DIR/broken"
# The very last one may be empty still.
mapfile -t volumes < <(find "$WORK_DIR/broken" -name 'vol-*.cv' -size +1M | sort)
rm "${volumes[-2]%.cv}".*
truncate -s 5000 "${volumes[-1]}"
cp -a "$WORK_DIR/broken" "$WORK_DIR/data"
data_start >"$WORK_DIR/refused" 2>&1 || true
wait_until 20 gone "$SPAWNED_PID" && line_in "old copy of the data directory.*--accept-loss" "$WORK_DIR/data.log" || fail "it does not say that the end is missing: $(tail -n 3 "$WORK_DIR/data.log")"
DATA_ARGS="$DATA_ARGS --accept-loss" data_start
fsck 4 --quick
mapfile -t named <"$WORK_DIR/named"
for file in "$WORK_DIR"/backup/*; do
    name=${file##*/}
    case " ${named[*]} " in *" $name "*) ;; *) cmp "$file" "$MNT_B/$name" || fail "$name was not named" ;; esac
done
[ "${#named[@]}" -lt 40 ] && restore "${named[@]}" && fsck_ends 0 && ok "a data disk that could be read in part: ${#named[@]} of 40 files came from the backup" ||
    fail "the files are not what they were: $(cat "$WORK_DIR/fsck.txt")"
# Nothing of it can be read.
again_b
kill_hard "$DATA_PID"
rm -r "$WORK_DIR/data"
cat "$MNT_B/02" >"$WORK_DIR/read.out" 2>"$WORK_DIR/read.err" &
reader=$!
LIB_PIDS+=("$reader")
sleep 1
gone "$reader" && fail "a read does not wait for a data daemon: $(cat "$WORK_DIR/read.err")"
data_start
wait_until 20 gone "$reader" && grep -q "Input/output error" "$WORK_DIR/read.err" && [ ! -s "$WORK_DIR/read.out" ] && ok "reads that waited end with an error" ||
    fail "a read of what is lost: $(cat "$WORK_DIR/read.err")"
fsck 4 --quick
mapfile -t named <"$WORK_DIR/named"
restore "${named[@]}" && fsck_ends 0 && ok "a data disk that was lost: ${#named[@]} files came from the backup" || fail "the files are not what they were: $(cat "$WORK_DIR/fsck.txt")"

# ---- a copy of the metadata is put back ------------------------------------------------------------------------------
# meta_copy: as it is written.
meta_copy() {
    kill "$META_PID" && wait_until 20 gone "$META_PID" || fail "the metadata daemon does not end"
    cp -a "$WORK_DIR/meta" "$WORK_DIR/meta-copy"
    meta_start
}
used() { du -sm "$WORK_DIR/data" | cut -f1; }
given_back() { [ "$(used)" -le $((before - 6)) ]; }
meta_copy
files "$WORK_DIR/rescued" 5 400
before=$(used)
rm "$MNT_A/03" "$MNT_A/04"
wait_until 10 given_back || fail "what files that were removed had is still there"
store "$WORK_DIR/rescued" 01 02
mv "$MNT_A/05" "$MNT_A/moved"
put "$MNT_A/later" 3
sync "$MNT_A"
exec 9<"$MNT_A/06"
kill_hard "$META_PID"
printf damaged | dd of="$WORK_DIR/meta/tables" bs=1 seek=0 conv=notrunc status=none
meta_start 9<&- >"$WORK_DIR/refused" 2>&1 || true
wait_until 20 gone "$SPAWNED_PID" && line_in "^cairn-fsd: metadata tables: " "$WORK_DIR/meta.log" || fail "a damaged directory: $(tail -n 3 "$WORK_DIR/meta.log")"
# 1.
mv "$WORK_DIR/meta" "$WORK_DIR/meta-damaged"
cp -a "$WORK_DIR/meta-copy" "$WORK_DIR/meta"
meta_start 9<&-
wait_until 30 line_in "the metadata daemon has another history of this session" "$WORK_DIR/mount-mnt-a.log" || fail "the mount that had changed something says nothing"
again_b 9<&-
[ "$(ls "$MNT_A")" = "$(ls "$WORK_DIR/backup")" ] && [ "$(ls "$MNT_B")" = "$(ls "$WORK_DIR/backup")" ] && ok "the tree is that of the copy" || fail "the tree is not that of the copy: $(ls "$MNT_A" "$MNT_B")"
cat <&9 >/dev/null 2>"$WORK_DIR/read.err" && fail "a file that was open goes on" || grep -q "Input/output error" "$WORK_DIR/read.err" || fail "a file that was open: $(cat "$WORK_DIR/read.err")"
exec 9<&-
cmp "$MNT_A/06" "$WORK_DIR/backup/06" || fail "a file that was open can't be opened again"
# 2.
fsck 4 || true
mapfile -t named <"$WORK_DIR/named"
grep -q '^leaked' "$WORK_DIR/fsck.txt" || fail "nothing of the later file is leaked: $(cat "$WORK_DIR/fsck.txt")"
restore "${named[@]}" && fsck_ends 0 || fail "the files are not what they were"
# 3.
fsck 1 --repair
fsck_ends 0 && ! grep -q '^leaked' "$WORK_DIR/fsck.txt" && same && ok "a copy of the metadata was put back: ${named[*]} came from the backup" || fail "after the repair: $(cat "$WORK_DIR/fsck.txt")"

# ---- with copies of the data directories, made meanwhile, all is as it was -------------------------------------------
rm -r "$WORK_DIR/meta-copy"
kill "$META_PID" && wait_until 20 gone "$META_PID" || fail "the metadata daemon does not end"
cp -a "$WORK_DIR/meta" "$WORK_DIR/meta-copy"
cp -a "$WORK_DIR/data" "$WORK_DIR/data-copy"
meta_start
store "$WORK_DIR/rescued" 01 02 05
rm "$MNT_A/03" "$MNT_A/04"
put "$MNT_A/later" 3
kill_hard "$META_PID"
kill_hard "$DATA_PID"
rm -r "$WORK_DIR/meta" "$WORK_DIR/data"
mv "$WORK_DIR/meta-copy" "$WORK_DIR/meta"
mv "$WORK_DIR/data-copy" "$WORK_DIR/data"
meta_start
data_start
unmount "$MNT_A" || fail "the first mount does not end"
mount_at "$MNT_A" allow_other
MNT_A_PID=$MOUNT_PID
again_b
fsck_ends 0 && same && ok "with copies of the data, all is as it was" || fail "with copies of the data: $(cat "$WORK_DIR/fsck.txt")"
unset DATA_ARGS
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
