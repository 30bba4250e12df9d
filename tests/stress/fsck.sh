#!/usr/bin/env bash
# cairn fsck finds nothing where nothing is wrong, names what is: a damaged, a missing, a leaked block; and repairs the last.
# cairn volume says the same of a volume's file, without any daemon; so does cairn fsck of whole directories. What
# cairn meta dump writes and cairn meta load reads is the same tree, and mounts of before go on with it.
# Usage: fsck.sh     makes a cluster of its own
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
need_packages python3 fuse3 jq
lib_trap
work_dir
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
# miscount FILE DIR: of the dump that comes in, one with each kind of count wrong: links of the inode FILE, entries of the inode DIR, live
# bytes of a block, inodes in all.
miscount() {
    python3 -c '
import re, sys
table = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x9A6C9329AC4BC9B5 if byte & 1 else 0)
    table.append(byte)
def more(line, field):
    return re.sub(r"\"%s\":(\d+)" % field, lambda found: "\"%s\":%d" % (field, int(found[1]) + 1), line, count=1)
lines, block = sys.stdin.read().splitlines(keepends=True), False
for at, line in enumerate(lines):
    if line.startswith("{\"inode\":{\"ino\":%s," % sys.argv[1]):
        lines[at] = more(line, "nlink")
    elif line.startswith("{\"inode\":{\"ino\":%s," % sys.argv[2]):
        lines[at] = more(line, "entries")
    elif line.startswith("{\"block\":") and not block:
        block, lines[at] = True, more(line, "live")
    elif line.startswith("{\"state\":"):
        lines[at] = more(line, "inodes")
crc = (1 << 64) - 1
for byte in "".join(lines[:-1]).encode():
    crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
lines[-1] = re.sub(r"[0-9a-f]{16}", "%016x" % (crc ^ (1 << 64) - 1), lines[-1])
sys.stdout.write("".join(lines))' "$@"
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
# The same on copies of the directories, without daemons.
cp -a --sparse=always "$WORK_DIR/data" "$WORK_DIR/data-copy"
cp -a "$WORK_DIR/meta" "$WORK_DIR/meta-copy"
copies() { "$(bin cairn)" fsck --json --meta-dir "$WORK_DIR/meta-copy" --data-dir "$WORK_DIR/data-copy" "$@" >"$WORK_DIR/fsck.json"; }
copies --quick && holds ".leaked.blocks == $before and (.leaked.deleted | not)" "as many in the directories alone"
# Metadata whose counts are wrong: all that can count is named, none is repaired by guessing, and nothing is deleted for its sake.
"$(bin cairn)" meta dump "$WORK_DIR/meta-copy" | miscount "$(stat -c %i "$MNT_A/dir/marked")" "$(stat -c %i "$MNT_A/dir")" |
    "$(bin cairn)" meta load - "$WORK_DIR/meta-wrong" >/dev/null || fail "wrong counts are not loaded"
spawn meta-wrong "$(bin cairn-fsd)" meta --data-dir "$WORK_DIR/meta-wrong" --listen 127.0.0.1:0
wrong=("$SPAWNED_PID")
wait_listening
wrong_addr=$LISTEN_ADDR
spawn data-copy "$(bin cairn-fsd)" data --data-dir "$WORK_DIR/data-copy" --listen 127.0.0.1:0 --meta "$wrong_addr"
wrong+=("$SPAWNED_PID")
wait_listening
for round in 1 2; do
    META_ADDR=$wrong_addr fsck 12 "counts that are wrong, repair $round" --quick --repair
    for what in "has nlink 3, not 2" "entries, its count says otherwise" "live bytes, its row says" "totals are .*, should be"; do
        holds "[.problems[].what | select(test(\"$what\"))] | length == 1" "it names: $what"
    done
    holds ".leaked.blocks == $before and (.leaked.deleted | not) and (.unchecked | length) == 1" "$before leaked blocks are left alone, round $round"
done
for pid in "${wrong[@]}"; do stop "$pid" || fail "a daemon on wrong counts does not end"; done
code=0
copies --repair || code=$?
[ "$code" = 1 ] && holds ".leaked.blocks == $before and .leaked.deleted" "they are deleted" || fail "repair without daemons: exit code $code"
copies && holds '.leaked.blocks == 0 and .problems == []' "nothing is leaked any more"
rm -rf "$WORK_DIR/data-copy" "$WORK_DIR/meta-copy"
fsck 1 "repair" --repair
fsck 0 "after the repair"
holds '.leaked.blocks == 0 and .problems == []' "nothing is leaked any more"
cmp <(head -c 12 "$MNT_A/dir/deep/7") <(printf 'content of f') || fail "the files are not what they were"

# ---- bad input -----------------------------------------------------------------------------------------------------
code=0
"$(bin cairn)" fsck --meta 127.0.0.1:1 >"$WORK_DIR/no.txt" 2>&1 || code=$?
[ "$code of $(wc -l <"$WORK_DIR/no.txt")" = "8 of 1" ] && grep -q 127.0.0.1:1 "$WORK_DIR/no.txt" && ok "no metadata daemon: one line" ||
    fail "no metadata daemon: code $code, $(cat "$WORK_DIR/no.txt")"

# ---- without daemons -----------------------------------------------------------------------------------------------
META_DIR=$WORK_DIR/meta
# offline CODE WHAT [OPTION]...: of the metadata and the data.
offline() {
    local expected=$1 what=$2
    shift 2
    without "$expected" "$what" fsck --json --meta-dir "$META_DIR" --data-dir "$WORK_DIR/data" "$@"
}
# without CODE WHAT ARGUMENT...: nothing in the directories may be changed by it, if the daemons are away.
without() {
    local expected=$1 what=$2 code=0 before
    shift 2
    before=$(stamps)
    "$(bin cairn)" "$@" >"$WORK_DIR/fsck.json" 2>"$WORK_DIR/fsck.err" || code=$?
    if [ "$code" = "$expected" ]; then ok "$what: exit code $code"; else
        fail "$what: exit code $code, not $expected: $(head -c 4000 "$WORK_DIR/fsck.json") $(cat "$WORK_DIR/fsck.err")"
    fi
    [ "$(wc -l <"$WORK_DIR/fsck.err")" -le 1 ] || fail "$what: more than a line: $(cat "$WORK_DIR/fsck.err")"
    [ "$(stamps)" = "$before" ] || ! gone "$META_PID" || ! gone "$DATA_PID" ||
        fail "$what: the directories were changed"
}
# No write, cut or hole leaves the time of the last change as it was.
stamps() { find "$META_DIR" "$WORK_DIR/data" -printf '%p %i %s %b %C@\n' | sort; }
says() { grep -q -e "$1" "$WORK_DIR/fsck.err" && ok "$2" || fail "$2: $(cat "$WORK_DIR/fsck.err")"; }
# flip FILE OFFSET: one bit; twice: as before.
flip() {
    python3 - "$@" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2]))
    byte = f.read(1)[0]
    f.seek(int(sys.argv[2]))
    f.write(bytes([byte ^ 4]))
PYTHON
}
tree() { "$(dirname "$0")/manifest.py" "$1"; }

"$(dirname "$0")/manifest.py" --fill "$MNT_A/dir/all kinds"
# Bytes that are found again in the tables: of names, and of an inode.
python3 - "$MNT_A/dir/named" <<'PYTHON'
import os, sys
os.mkdir(sys.argv[1])
for i in range(300):
    open(f"{sys.argv[1]}/NAMED-IN-THE-TABLES-{i:03}", "w").close()
os.symlink("TARGET-IN-THE-TABLES", f"{sys.argv[1]}/link")
PYTHON
sync -f "$MNT_A"
without 8 "the metadata daemon runs" fsck --meta-dir "$META_DIR"
says "$META_DIR is in use by another daemon" "it is said in a line"
without 1 "the metadata daemon runs" meta dump "$META_DIR"
says "in use by another daemon" "it is said in a line"
kill_hard "$META_PID"
without 0 "the metadata of a killed daemon" fsck --json --meta-dir "$META_DIR"
holds '.data == null and .problems == [] and .unchecked == [] and .tree.inodes > 2300' "its own checks alone"
offline 8 "the data daemon runs"
says "$WORK_DIR/data is in use by another daemon" "it is said in a line"
kill_hard "$DATA_PID"
offline 0 "after kill -9 of both daemons"
holds '.problems == [] and .unchecked == [] and .data[0].verified > 25000000' "all data was read"
without 8 "the wrong directory" fsck --meta-dir "$WORK_DIR/data"
says "belongs to a data daemon" "it is said in a line"
without 8 "the wrong data directory" fsck --meta-dir "$META_DIR" --data-dir "$META_DIR"
without 8 "repair of nothing" fsck --meta-dir "$META_DIR" --repair
says "with --data-dir" "it is said in a line"
meta_start "$META_DIR" "$META_ADDR"
data_start "$WORK_DIR/data" "$DATA_ADDR"
tree "$MNT_A" >"$WORK_DIR/tree.before"

# A program goes on all the while: with the directory that is dumped, and then with the one that is loaded.
python3 - "$MNT_A" "$WORK_DIR" 2>"$WORK_DIR/go-on.err" <<'PYTHON' &
import os, sys, time
n = 0
os.mkdir(f"{sys.argv[1]}/goes on")
while not os.path.exists(f"{sys.argv[2]}/enough"):
    with open(f"{sys.argv[1]}/goes on/{n}", "w") as f:
        f.write(f"{n} " * 1000)
    n += 1
    time.sleep(0.01)
for i in range(n):
    assert open(f"{sys.argv[1]}/goes on/{i}").read() == f"{i} " * 1000, i
print(n)
PYTHON
program=$!
LIB_PIDS+=("$program")
wait_until 20 test -e "$MNT_A/goes on/20" || fail "the program does not start"
stop "$META_PID" || fail "the metadata daemon does not end"
stop "$DATA_PID" || fail "the data daemon does not end"
offline 0 "daemons that were stopped"

# ---- damage, without daemons ---------------------------------------------------------------------------------------
volume=$(volume_with CANARY-CANARY)
swap "$volume" CANARY-CANARY CANARY-CANCRY
offline 4 "a damaged block"
holds '[.problems[] | select(.what | test("damaged")).files[]] | index("/dir/marked") != null and index("/second name") != null' "its files are named"
offline 0 "damage inside of blocks is not looked for" --quick
swap "$volume" CANARY-CANCRY CANARY-CANARY
flip "$volume" 20
offline 4 "a damaged superblock" --quick
holds '[.problems[] | select(.what | test("damaged at its beginning")).files[]] | index("/dir/marked") != null' "its files are named"
flip "$volume" 20
take_away
offline 4 "a lost volume" --quick
holds '[.problems[] | select(.what == "is missing").files[]] | index("/dir/marked") != null' "its files are named"
bring_back
cp "$META_DIR/tables" "$WORK_DIR/tables.kept"
while swap "$META_DIR/tables" MARKED-IN-THE-TABLES MARKED-IN-THE-TABLEZ; do :; done
offline 12 "a changed byte in the tables" --quick
holds '[.problems[].what | select(test("^tables: .*tables is damaged at byte [0-9]+:"))] | length > 0' "it is named"
holds '.unchecked == ["everything else: it needs the metadata"]' "what is damaged is not gone by"
holds '[.problems[] | select(.where == "rows")] | length > 0' "and what it touches"
without 1 "a changed byte in the tables is not dumped" meta dump "$META_DIR"
[ "$(wc -c <"$WORK_DIR/fsck.json")" = 0 ] || fail "damaged tables were dumped"
cp "$WORK_DIR/tables.kept" "$META_DIR/tables"
# What damaged pages touch is named, and soon.
before=$SECONDS
while swap "$META_DIR/tables" TARGET-IN-THE-TABLES TARGET-IN-THE-TABLEZ; do :; done
offline 12 "a damaged page of inodes" --quick
holds '[.problems[] | select(.where == "rows").table] == ["inodes"]' "it is these that are lost"
holds '[.problems[] | select(.table == "inodes").files[]] | index("/dir/named/link") != null and length < 100' "its files are named"
while swap "$META_DIR/tables" NAMED-IN-THE-TABLES-150 NAMED-IN-THE-TABLEZ-150; do :; done
offline 12 "a damaged page of names too" --quick
holds '[.problems[] | select(.where == "rows").table] == ["inodes", "directory entries", "names"]' "both are told"
holds '[.problems[] | select(.table == "directory entries").files[] | select(test("^/dir/named: [0-9]+ names$"))] | length == 1' "the directory is named"
holds '[.problems[] | select(.table == "names").files[] | select(test("^inode [0-9]+$"))] | length > 0' "files without names are told by their numbers"
[ $((SECONDS - before)) -le 20 ] && ok "in $((SECONDS - before)) s" || fail "it took $((SECONDS - before)) s"
code=0
"$(bin cairn)" fsck --meta-dir "$META_DIR" >"$WORK_DIR/fsck.txt" || code=$?
[ "$code" = 12 ] && grep -q '^PROBLEM   metadata: tables: inodes with the numbers .*: damaged at byte [0-9]*$' "$WORK_DIR/fsck.txt" &&
    grep -q '^          /dir/named: [0-9]* names$' "$WORK_DIR/fsck.txt" && ok "people can read it" || fail "text: exit code $code, $(cat "$WORK_DIR/fsck.txt")"
cp "$WORK_DIR/tables.kept" "$META_DIR/tables"
log=$(find "$META_DIR" -name 'log-*' | sort | tail -n 1)
flip "$log" 110
offline 12 "a changed byte in the log" --quick
holds "[.problems[].what | select(test(\"$(basename "$log") .*damaged\"))] | length == 1" "its file is named"
holds '.unchecked == ["everything else: it needs the metadata"]' "it says what it could not check"
flip "$log" 110
offline 0 "the damage undone"

# ---- dump and load -------------------------------------------------------------------------------------------------
DUMP=$WORK_DIR/metadata.dump
without 0 "dump" meta dump "$META_DIR"
mv "$WORK_DIR/fsck.json" "$DUMP"
jq -e -s 'length > 5000' "$DUMP" >/dev/null || fail "lines of JSON"
tail -n 1 "$DUMP" | grep -q '^{"end":{"rows":' || fail "its last line: $(tail -n 1 "$DUMP")"
head -c 100000 "$DUMP" >"$WORK_DIR/cut.dump"
without 1 "a dump that is cut off" meta load "$WORK_DIR/cut.dump" "$WORK_DIR/meta-new"
says ": line $(($(wc -l <"$WORK_DIR/cut.dump") + 1)): the dump is cut off here$" "the line is named"
sed '7s/"ino":/"inode":/' "$DUMP" >"$WORK_DIR/bad.dump"
without 1 "a dump with a bad row" meta load "$WORK_DIR/bad.dump" "$WORK_DIR/meta-new"
says ": line 7: unknown field" "the line is named"
[ ! -e "$WORK_DIR/meta-new" ] || fail "something is left: $(ls -la "$WORK_DIR/meta-new")"
without 1 "load over metadata" meta load "$DUMP" "$META_DIR"
says "it is not empty" "it is refused"
without 0 "load" meta load - "$WORK_DIR/meta-new" <"$DUMP"
mv "$META_DIR" "$WORK_DIR/meta-old"
mv "$WORK_DIR/meta-new" "$META_DIR"
without 0 "dump what was loaded" meta dump "$META_DIR"
cmp "$WORK_DIR/fsck.json" "$DUMP" && ok "the same, byte for byte" || fail "another dump"
offline 0 "what was loaded"

meta_start "$META_DIR" "$META_ADDR"
data_start "$WORK_DIR/data" "$DATA_ADDR"
count() { find "$MNT_A/goes on" -type f | wc -l; }
before=$(count)
more() { [ "$(count)" -gt $((before + 20)) ]; }
wait_until 30 more || fail "the program does not go on"
touch "$WORK_DIR/enough"
wait "$program" && ok "a program goes on with what was loaded" || fail "the program failed: $(cat "$WORK_DIR/go-on.err")"
rm -r "$MNT_A/goes on"
unmount "$MNT_A" || fail "the mount does not end"
mount_at "$MNT_A"
tree "$MNT_A" >"$WORK_DIR/tree.after"
diff <(sed 1d "$WORK_DIR/tree.before") <(sed 1d "$WORK_DIR/tree.after") >"$WORK_DIR/tree.diff" &&
    ok "the same tree: $(wc -l <"$WORK_DIR/tree.after") names" || fail "another tree: $(head -n 20 "$WORK_DIR/tree.diff")"
fsck 0 "the loaded file system while it runs"

# ---- an old dump: what came after it is gone, and a mount of that time goes on ----------------------------------------
# The mount's session began after the dump; it sleeps while the next mount gets one.
python3 - "$MNT_A" "$WORK_DIR" >"$WORK_DIR/open.txt" 2>&1 <<'PYTHON' &
import errno, os, sys, time
with open(f"{sys.argv[1]}/after the dump", "wb", buffering=0) as f:
    f.write(b"synced" * 1000)
    os.fsync(f.fileno())
    open(f"{sys.argv[2]}/is-open", "w").close()
    while not os.path.exists(f"{sys.argv[2]}/try"):
        time.sleep(0.01)
    try:
        f.write(b"lost")
        os.fsync(f.fileno())
        print("no error")
    except OSError as error:
        print(errno.errorcode[error.errno])
PYTHON
program=$!
LIB_PIDS+=("$program")
wait_until 20 test -e "$WORK_DIR/is-open" || fail "the program does not start"
MNT_A_PID=$MOUNT_PID
# Whatever the metadata daemon counts is higher then than in the one that is started on the dump.
for round in 1 2; do
    stop "$META_PID" || fail "the metadata daemon does not end"
    meta_start "$META_DIR" "$META_ADDR"
    wait_until 20 touch "$MNT_A/round $round" || fail "the mount does not go on"
done
kill -STOP "$MNT_A_PID"
at_end "kill -CONT $MNT_A_PID 2>/dev/null || true"
stop "$META_PID" || fail "the metadata daemon does not end"
"$(bin cairn)" meta load "$DUMP" "$WORK_DIR/meta-old-dump" >/dev/null || fail "load"
mv "$META_DIR" "$WORK_DIR/meta-older"
mv "$WORK_DIR/meta-old-dump" "$META_DIR"
META_ARGS="--session-timeout 4s --grace 2s" meta_start "$META_DIR" "$META_ADDR"
cluster_second
kill -CONT "$MNT_A_PID"
goes_on() { touch "$MNT_A/here" && [ -e "$MNT_B/here" ]; }
wait_until 30 goes_on && ok "the mount of before goes on" || fail "the mount of before does not go on"
[ ! -e "$MNT_A/after the dump" ] && [ ! -e "$MNT_B/after the dump" ] && ok "what came after the dump is gone" || fail "ghosts"
touch "$WORK_DIR/try"
wait "$program" || true
[ "$(cat "$WORK_DIR/open.txt")" = EIO ] && ok "files that were open answer EIO" || fail "open files: $(cat "$WORK_DIR/open.txt")"
for n in 1 2 3; do
    echo "from b $n" >"$MNT_B/both"
    [ "$(cat "$MNT_A/both")" = "from b $n" ] || fail "a does not see what b wrote"
    echo "from a $n" >"$MNT_A/both"
    [ "$(cat "$MNT_B/both")" = "from a $n" ] || fail "b does not see what a wrote"
    rm "$MNT_B/both"
    [ ! -e "$MNT_A/both" ] || fail "a sees what b removed"
done
grep -q 'session was ended' "$WORK_DIR/mount-mnt-b.log" && fail "the next mount lost its session to the one of before"
grep -q 'session was ended' "$WORK_DIR/mount-mnt-a.log" && ok "the mount of before said so" || fail "its session was not ended"
sessions=$("$(bin cairn)" status --meta "$META_ADDR" --json | jq -c '[.sessions[].session] | length')
[ "$sessions" = 2 ] && ok "each has a session of its own" || fail "$sessions sessions for two mounts"
fsck 0 "the old state with both mounts"

cluster_stop || fail "the cluster does not stop"
exit "$failed"
