#!/usr/bin/env bash
# A mount dies by kill -9, and nobody on its machine waits for it: neither the next mount, nor one that lives beside it, nor one
# that comes after the metadata daemon was restarted; and what it leaves in the run directory is what it should.
# Usage: killed.sh     makes a cluster of its own
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
need_packages python3 fuse3 jq
lib_trap
work_dir
# A session time-out is 30 s; nothing that this test looks at may take a sixth of that.
LIMIT_MS=5000
export CAIRN_RUN_DIR=$WORK_DIR/run

now_ms() { echo $(($(date +%s%N) / 1000000)); }
# in_time WHAT: since the last `clock=$(now_ms)`.
in_time() {
    local ms=$(($(now_ms) - clock))
    if [ "$ms" -lt "$LIMIT_MS" ]; then ok "$1: $ms ms"; else fail "$1 took $ms ms"; fi
}
life_files() { find "$CAIRN_RUN_DIR" -name 'mount-*' -printf '%f\n' 2>/dev/null || true; }

# A program that has written a file (synced), holds it open and locked, has another one open that has no name any more, and
# goes on writing what is never synced.
holder() {
    python3 - "$1" 2>>"$WORK_DIR/holder.log" <<'PYTHON' &
import fcntl, os, sys, time
at = sys.argv[1]
held = os.open(at + "/held", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
os.write(held, b"kept")
os.fsync(held)
fcntl.flock(held, fcntl.LOCK_EX)
gone = os.open(at + "/unlinked", os.O_RDWR | os.O_CREAT)
os.write(gone, b"x" * 1000000)
os.fsync(gone)
os.unlink(at + "/unlinked")
fd = os.open(at, os.O_RDONLY)
os.fsync(fd)
open(at + "/ready", "w").close()
while True:
    os.pwrite(held, b"never synced", 100)
    time.sleep(0.01)
PYTHON
    HOLDER_PID=$!
    LIB_PIDS+=("$HOLDER_PID")
    wait_until 20 test -e "$1/ready" || fail "the program did not start"
}
# The mount daemon PID at DIR dies under such a program.
murder() {
    holder "$2"
    clock=$(now_ms)
    kill_hard "$1" || fail "process $1 survives kill -9"
    umount -l "$2"
    wait_until 20 gone "$HOLDER_PID" || fail "the program hangs"
}
# All that the dead one had is there, and free.
inherits() {
    [ "$(head -c 4 "$1/held")" = kept ] || fail "$1: content of the file that was held open"
    timeout 20 flock -n "$1/held" true || fail "$1: the dead mount's lock is still held"
    echo more >>"$1/held" && tail -c 5 "$1/held" | grep -q more || fail "$1: cannot write to the file"
    rm "$1/ready" "$1/held" || fail "$1: cannot remove"
}
orphans() { "$(bin cairn)" status --meta "$META_ADDR" --json | jq .meta.orphans; }
no_orphans() { [ "$(orphans)" = 0 ]; }

cluster_start 1
[ "$(life_files | wc -l)" = 1 ] || fail "a mount has $(life_files | wc -l) life files"
[ "$(find "$CAIRN_RUN_DIR" -printf '%m ')" = "700 600 " ] || fail "others may read what is in the run directory"

# ---- the next mount --------------------------------------------------------------------------------------------------
first=$(life_files)
murder "$MNT_A_PID" "$MNT_A"
[ "$(life_files)" = "$first" ] || fail "no proof of the death: $(life_files)"
mount_at "$MNT_A" || fail "no mount"
MNT_A_PID=$MOUNT_PID
inherits "$MNT_A"
in_time "the next mount"
[ "$(life_files | wc -l)" = 1 ] && [ "$(life_files)" != "$first" ] || fail "life files: $(life_files)"
wait_until 10 no_orphans || fail "the unlinked file of the dead mount stays"

# ---- one that was started in the background ---------------------------------------------------------------------------
mkdir "$WORK_DIR/back"
LIB_MOUNTS+=("$WORK_DIR/back")
unmount "$MNT_A" && wait_until 20 gone "$MNT_A_PID" || fail "umount"
[ -z "$(life_files)" ] || fail "a clean umount leaves $(life_files)"
"$(bin cairn-mountd)" "$META_ADDR:/" "$WORK_DIR/back" </dev/null >"$WORK_DIR/back.log" 2>&1 || fail "no mount in the background"
murder "$(pgrep -f -- "cairn-mountd .*$WORK_DIR/back( |\$)")" "$WORK_DIR/back"
mount_at "$MNT_A" || fail "no mount"
MNT_A_PID=$MOUNT_PID
inherits "$MNT_A"
in_time "the next mount after one in the background"

# ---- one that lives beside it ----------------------------------------------------------------------------------------
cluster_second || fail "no second mount"
murder "$MNT_A_PID" "$MNT_A"
inherits "$MNT_B"
in_time "a mount beside it"
[ "$(life_files | wc -l)" = 1 ] || fail "life files: $(life_files)"
unmount "$MNT_B" && wait_until 20 gone "$MNT_B_PID" || fail "umount"
MNT_B_PID=

# ---- two that die and two that start, at once ------------------------------------------------------------------------
mount_at "$MNT_A" && MNT_A_PID=$MOUNT_PID && cluster_second || fail "no two mounts"
holder "$MNT_A"
# Both stop before either could end the other.
kill -STOP "$MNT_A_PID" "$MNT_B_PID"
clock=$(now_ms)
kill -KILL "$MNT_A_PID" "$MNT_B_PID"
kill_hard "$MNT_A_PID" && kill_hard "$MNT_B_PID" || fail "kill -9"
umount -l "$MNT_A"
umount -l "$MNT_B"
wait_until 20 gone "$HOLDER_PID" || fail "the program hangs"
for mnt in "$MNT_A" "$MNT_B"; do
    spawn "mount-both-$(basename "$mnt")" "$(bin cairn-mountd)" "$META_ADDR:/" "$mnt" -f -o allow_other
    [ "$mnt" = "$MNT_A" ] && MNT_A_PID=$SPAWNED_PID || MNT_B_PID=$SPAWNED_PID
done
wait_until 50 is_mounted "$MNT_A" && wait_until 50 is_mounted "$MNT_B" || fail "no two mounts"
inherits "$MNT_B"
in_time "two mounts at once after two deaths"
[ "$(life_files | wc -l)" = 2 ] || fail "life files: $(life_files)"
for mnt in "$MNT_A" "$MNT_B"; do unmount "$mnt" || fail "umount"; done
wait_until 20 gone "$MNT_A_PID" && wait_until 20 gone "$MNT_B_PID" || fail "umount"
MNT_B_PID=

# ---- a metadata daemon that was away ---------------------------------------------------------------------------------
mount_at "$MNT_A" || fail "no mount"
MNT_A_PID=$MOUNT_PID
murder "$MNT_A_PID" "$MNT_A"
kill_hard "$META_PID"
# It waits for the daemon first.
spawn mount-early "$(bin cairn-mountd)" "$META_ADDR:/" "$MNT_A" -f -o allow_other
MNT_A_PID=$SPAWNED_PID
wait_until 20 line_in "can't connect" "$SPAWNED_LOG" || fail "a mount without a metadata daemon says nothing"
clock=$(now_ms)
meta_start
wait_until 50 is_mounted "$MNT_A" || fail "no mount"
inherits "$MNT_A"
in_time "the next mount after a restart of the metadata daemon"

# ... and comes back to one mount that lives and one that has died meanwhile.
cluster_second || fail "no second mount"
holder "$MNT_A"
kill_hard "$META_PID"
kill_hard "$MNT_A_PID"
umount -l "$MNT_A"
wait_until 20 gone "$HOLDER_PID" || fail "the program hangs"
clock=$(now_ms)
meta_start
inherits "$MNT_B"
in_time "a mount beside it after a restart of the metadata daemon"
unmount "$MNT_B" && wait_until 20 gone "$MNT_B_PID" || fail "umount"
MNT_B_PID=

# ---- what stands in the way ------------------------------------------------------------------------------------------
broken=mount-$(printf %032x 1)-$(printf %016x 1)
echo "not a life file" >"$CAIRN_RUN_DIR/note"
echo "of another cluster" >"$CAIRN_RUN_DIR/$broken"
mount_at "$MNT_A" || fail "foreign files stop the mount"
MNT_A_PID=$MOUNT_PID
[ "$(tail -n "+$((SPAWNED_FROM + 1))" "$SPAWNED_LOG" | grep -c 'run/note is not a life file: left alone')" = 1 ] || fail "not one line about a foreign file"
[ -e "$CAIRN_RUN_DIR/note" ] && [ -e "$CAIRN_RUN_DIR/$broken" ] || fail "foreign files are gone"
rm "$CAIRN_RUN_DIR/note" "$CAIRN_RUN_DIR/$broken"
ok "foreign files"
if CAIRN_RUN_DIR=/proc/cairn mount_at "$MNT_B"; then
    MNT_B_PID=$MOUNT_PID
    [ "$(tail -n "+$((SPAWNED_FROM + 1))" "$SPAWNED_LOG" | grep -c 'no life file')" = 1 ] || fail "not one line about the run directory"
    ok "a run directory that can't be made"
else
    fail "no mount without a run directory"
fi

cluster_stop || fail "the cluster did not end cleanly"
left=$(find "$CAIRN_RUN_DIR" -mindepth 1)
[ -z "$left" ] || fail "left in the run directory: $left"
exit $failed
