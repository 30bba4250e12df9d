#!/usr/bin/env bash
# cairn fsck finds nothing where nothing is wrong, names what is: a damaged, a missing, a leaked block; and repairs the last.
# cairn volume says the same of a volume's file, without any daemon.
# Usage: fsck.sh     makes a cluster of its own
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
need_packages python3 fuse3 jq
lib_trap
work_dir
failed=0
fail() { echo "FAILED: $*"; failed=1; }
ok() { echo "ok      $*"; }
export CAIRN_RUN_DIR=$WORK_DIR/run

# fsck CODE WHAT [OPTION]...: the report is in $WORK_DIR/fsck.json.
fsck() {
    local expected=$1 what=$2 code=0
    shift 2
    "$(bin cairn)" fsck --meta "$META_ADDR" --json "$@" >"$WORK_DIR/fsck.json" 2>"$WORK_DIR/fsck.err" || code=$?
    if [ "$code" = "$expected" ]; then
        ok "$what: exit code $code"
    else
        fail "$what: exit code $code, not $expected: $(cat "$WORK_DIR/fsck.json" "$WORK_DIR/fsck.err")"
    fi
}
# holds FILTER WHAT: of the last report.
holds() { if jq -e "$1" "$WORK_DIR/fsck.json" >/dev/null; then ok "$2"; else fail "$2: $(cat "$WORK_DIR/fsck.json")"; fi; }
fill() { python3 -c 'import os, sys; open(sys.argv[1], "wb").write(os.urandom(int(sys.argv[2]) << 20))' "$1" "$2"; sync -f "$1"; }
# swap FILE FROM TO: bytes of the volume FILE that are FROM become TO, in place.
swap() {
    python3 - "$@" <<'PYTHON'
import sys
path, old, new = sys.argv[1], sys.argv[2].encode(), sys.argv[3].encode()
with open(path, "r+b") as f:
    at = f.read().find(old)
    if at < 0:
        sys.exit(3)
    f.seek(at)
    f.write(new)
PYTHON
}
volume_with() { grep -l -a "$1" "$WORK_DIR"/data/vol-*.cv || true; }
restart_data() {
    stop "$DATA_PID" || fail "the data daemon does not end"
    "$@"
    data_start "$WORK_DIR/data" "$DATA_ADDR"
}

cluster_start 1
# ---- nothing is wrong ----------------------------------------------------------------------------------------------
fsck 0 "an empty tree"
mkdir -p "$MNT_A/dir/deep"
fill "$MNT_A/dir/large" 24
python3 - "$MNT_A/dir" <<'PYTHON'
import os, sys
for i in range(2000):
    with open(f"{sys.argv[1]}/deep/{i}", "w") as f:
        f.write(f"content of file {i} " * 100)
with open(f"{sys.argv[1]}/marked", "w") as f:
    f.write("CANARY-CANARY-CANARY " * 4000)
    f.flush()
    os.fsync(f.fileno())
PYTHON
sync -f "$MNT_A"
ln "$MNT_A/dir/marked" "$MNT_A/second name"
fsck 0 "a full tree"
holds '.problems == [] and .unchecked == [] and .leaked.blocks == 0 and .tree.inodes == 2005' "all inodes, no problem"
holds '.data[0].verified > 25000000' "all data was read"
fsck 0 "a full tree, without its data" --quick
holds '.data[0].verified == 0' "no data was read"

# ---- a bare volume -------------------------------------------------------------------------------------------------
# volume CODE WHAT ARGUMENT...: what it prints is in $WORK_DIR/volume.txt.
volume() {
    local expected=$1 what=$2 code=0
    shift 2
    "$(bin cairn)" volume "$@" >"$WORK_DIR/volume.txt" 2>"$WORK_DIR/volume.err" || code=$?
    [ "$code" = "$expected" ] && ok "$what: exit code $code" || fail "$what: exit code $code: $(cat "$WORK_DIR/volume.err")"
}
marked=$(volume_with CANARY-CANARY)
volume 0 "show a volume" show "$marked"
grep -q '^state     open' "$WORK_DIR/volume.txt" && grep -q '^blocks .* hold' "$WORK_DIR/volume.txt" || fail "$(cat "$WORK_DIR/volume.txt")"
volume 0 "list a volume" list "$marked" --verify --json
jq -se 'length > 0 and all(.state == "whole" or .state == "deleted")' "$WORK_DIR/volume.txt" >/dev/null || fail "$(cat "$WORK_DIR/volume.txt")"
inode=$(stat -c %i "$MNT_A/dir/marked") found=
for block in $(jq 'select(.state == "whole").block' "$WORK_DIR/volume.txt"); do
    volume 0 "summary of block $block" dump "$marked" "$block" --summary
    read -r at length < <(sed -n "s/^byte \([0-9]*\): \([0-9]*\) bytes for inode $inode at 0$/\1 \2/p" "$WORK_DIR/volume.txt") || continue
    volume 0 "content of block $block" dump "$marked" "$block"
    cmp <(tail -c +$((at + 1)) "$WORK_DIR/volume.txt" | head -c "$length") <(head -c "$length" "$MNT_A/dir/marked") && found=$block
done
[ -n "$found" ] && ok "a file's bytes are found by the summary of block $found" || fail "the file is in no block"
volume 1 "no volume" show /etc/hostname
volume 1 "no such block" dump "$marked" 4000000
[ "$(wc -l <"$WORK_DIR/volume.err") $(wc -c <"$WORK_DIR/volume.txt")" = "1 0" ] || fail "more than a line: $(cat "$WORK_DIR/volume.err")"

# ---- everything changes while it is checked -------------------------------------------------------------------------
python3 - "$MNT_A" <<'PYTHON' &
import os, sys, time
end, n = time.monotonic() + 8, 0
while time.monotonic() < end:
    path = f"{sys.argv[1]}/churn{n % 7}"
    with open(path, "wb") as f:
        f.write(os.urandom(3 << 20))
    if n % 3 == 0:
        os.unlink(path)
    n += 1
PYTHON
churn=$!
LIB_PIDS+=("$churn")
for round in 1 2 3 4 5; do fsck 0 "a tree that changes, $round"; done
wait "$churn" || fail "the load failed"
rm -f "$MNT_A"/churn*

# ---- damage --------------------------------------------------------------------------------------------------------
volume=$(volume_with CANARY-CANARY)
restart_data swap "$volume" CANARY-CANARY CANARY-CANCRY
fsck 4 "a damaged block"
holds '[.problems[] | select(.what | test("damaged"))] | length == 1' "one block is damaged"
holds '.problems[0].files | index("/dir/marked") != null and index("/second name") != null' "its files are named"
fsck 0 "damage inside of blocks is not looked for" --quick
"$(bin cairn)" fsck --meta "$META_ADDR" >"$WORK_DIR/fsck.txt" || true
grep -q '^PROBLEM .*damaged' "$WORK_DIR/fsck.txt" && grep -q 'in /dir/marked$' "$WORK_DIR/fsck.txt" || fail "text: $(cat "$WORK_DIR/fsck.txt")"
mount_at "$WORK_DIR/look" "logfile=$WORK_DIR/look.log"
for round in 1 2; do
    cat "$WORK_DIR/look/dir/marked" >"$WORK_DIR/read.txt" 2>"$WORK_DIR/read.err" && fail "a damaged file is read"
    grep -q "Input/output error" "$WORK_DIR/read.err" && ! grep -q CANARY-CANCRY "$WORK_DIR/read.txt" || fail "a damaged file: $(cat "$WORK_DIR/read.err")"
done
unmount "$WORK_DIR/look" || fail "umount"
for log in data look; do
    [ "$(grep -c "is damaged" "$WORK_DIR/$log.log")" = 1 ] && grep "is damaged" "$WORK_DIR/$log.log" | grep -q "block $found " && ok "one line of $log.log names the block" ||
        fail "$log.log: $(grep damaged "$WORK_DIR/$log.log")"
done
volume 4 "a damaged block in a bare volume" list "$volume" --verify
[ "$(grep -c DAMAGED "$WORK_DIR/volume.txt")" = 1 ] && grep -q "^ *$found .*DAMAGED$" "$WORK_DIR/volume.txt" || fail "$(cat "$WORK_DIR/volume.txt")"
volume 1 "its bytes are not given out" dump "$volume" "$found"
[ "$(wc -c <"$WORK_DIR/volume.txt")" = 0 ] || fail "damaged bytes were written"
restart_data swap "$volume" CANARY-CANCRY CANARY-CANARY
fsck 0 "the damage undone"

take_away() { mv "$volume" "$WORK_DIR/kept"; }
bring_back() { mv "$WORK_DIR/kept" "$volume"; }
restart_data take_away
fsck 4 "a lost volume" --quick
holds '[.problems[] | select(.what == "is missing")] | length > 0' "its blocks are missing"
holds '[.problems[].files[]] | index("/dir/marked") != null' "its files are named"
restart_data bring_back
fsck 0 "the volume is back"

stop "$DATA_PID" || fail "the data daemon does not end"
fsck 8 "a data daemon that is down" --quick
holds '.problems == [] and (.unchecked | length) > 0' "says what it could not check"
data_start "$WORK_DIR/data" "$DATA_ADDR"

# ---- what a mount stored and never committed -------------------------------------------------------------------------
python3 - "$MNT_A/dir/never" "$WORK_DIR" 2>/dev/null <<'PYTHON' &
import os, sys, time
with open(sys.argv[1], "wb", buffering=0) as f:
    open(sys.argv[2] + "/open", "w").close()
    while not os.path.exists(sys.argv[2] + "/go"):
        time.sleep(0.01)
    f.write(b"LEAKED-LEAKED-LEAKED " * 800000)
    time.sleep(60)
PYTHON
LIB_PIDS+=("$!")
wait_until 20 test -e "$WORK_DIR/open" || fail "the program does not start"
stop "$META_PID" || fail "the metadata daemon does not end"
touch "$WORK_DIR/go"
stored() { [ -n "$(volume_with LEAKED-LEAKED)" ]; }
wait_until 30 stored || fail "nothing was stored while the metadata daemon was away"
kill_hard "$MNT_A_PID" || fail "the mount survives kill -9"
umount -l "$MNT_A"
meta_start "$WORK_DIR/meta" "$META_ADDR"
mount_at "$MNT_A"
fsck 0 "after a mount died"
before=$(jq .leaked.blocks "$WORK_DIR/fsck.json")
[ "$before" -gt 0 ] && ok "$before blocks are leaked" || fail "no leaked blocks"
fsck 1 "repair" --repair
fsck 0 "after the repair"
holds '.leaked.blocks == 0 and .problems == []' "nothing is leaked any more"
cmp <(head -c 12 "$MNT_A/dir/deep/7") <(printf 'content of f') || fail "the files are not what they were"

# ---- bad input -----------------------------------------------------------------------------------------------------
code=0
"$(bin cairn)" fsck --meta 127.0.0.1:1 >"$WORK_DIR/no.txt" 2>&1 || code=$?
[ "$code of $(wc -l <"$WORK_DIR/no.txt")" = "8 of 1" ] && grep -q 127.0.0.1:1 "$WORK_DIR/no.txt" && ok "no metadata daemon: one line" ||
    fail "no metadata daemon: code $code, $(cat "$WORK_DIR/no.txt")"

cluster_stop || fail "the cluster does not stop"
exit "$failed"
