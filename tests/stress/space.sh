#!/usr/bin/env bash
# Space comes back: of files that are overwritten page by page, of blocks of which a few small files are left, and of everything when
# all is removed; while files are read, while daemons are killed. And who writes to a full disk is told, also who does not sync.
# Usage: space.sh     makes a cluster of its own
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
need_packages python3 fuse3 jq
lib_trap
work_dir
SPACE=$ROOT/tests/stress/space.py
export DATA_DIR=$WORK_DIR/data
# A volume that takes blocks may have so much space set aside behind its end, and keeps it, also when most of the blocks are gone.
AHEAD=64
mib() { echo $(($(du -s -B1 "$DATA_DIR" | cut -f1) >> 20)); }
# below MIB WHAT: in time. It takes half a minute until it is looked for what is worth cleaning, once nothing is written any more.
below() {
    small() { [ "$(mib)" -lt "$1" ]; }
    if wait_until 90 small "$1"; then ok "$2: $(mib) MiB on disk, below $1"; else fail "$2: $(mib) MiB on disk, not below $1"; fi
}
fsck_finds_nothing() {
    local out
    out=$("$(bin cairn)" fsck --meta "$META_ADDR" 2>&1) && ok "fsck $1" || fail "fsck $1: $out"
}

cluster_start 1
empty=$(mib)
echo "an empty data directory takes $empty MiB"
meta_kib() { du -s -k "$WORK_DIR/meta/$1" | cut -f1; }
empty_meta=$(meta_kib .)

# ---- overwriting -----------------------------------------------------------------------------------------------------
# takes MOST MEDIAN WHAT LOAD...: a load of space.py, which takes less than so many times its size on disk.
takes() {
    local most=$1 median=$2 what=$3 taken
    shift 3
    if ! taken=$(python3 "$SPACE" "$@"); then
        fail "$what: it failed, or what was read is not what was written"
    elif awk -v taken="$taken" -v most="$most" -v median="$median" \
        'BEGIN { split(taken, is); exit !(is[1] > 0.5 && is[1] < most && is[2] < median) }'; then
        ok "$what: at most and in the median it took $taken times its size, below $most and $median"
    else
        fail "$what: at most and in the median it took $taken times its size, not below $most and $median"
    fi
}
takes 3 3 "192 MiB written 100 times over" rewrite "$MNT_A/whole" 192 100 kept
takes 3 3 "192 MiB written 10 times over, cut before" rewrite "$MNT_A/whole" 192 10 cut
fsck_finds_nothing "after rewriting"
rm "$MNT_A/whole"
below $((empty + 12)) "nothing, after rewriting"
seed=${SEED:-$RANDOM}
echo "seed $seed"
# Without cleaning 8 to 10. How much more than 2 it is depends on what the programs leave of the cores.
takes 6 4 "64 MiB overwritten 30 times in random order" overwrite "$MNT_A/pages" 64 30 "$seed"
below $((empty + 2 * 64 + AHEAD)) "64 MiB after that"
fsck_finds_nothing "after overwriting"
rm "$MNT_A/pages"

# ---- what is left of small files -------------------------------------------------------------------------------------
mkdir "$MNT_A/small"
python3 "$SPACE" scatter "$MNT_A/small" 40000 10
before=$(mib)
[ "$before" -gt $((empty + 180)) ] || fail "40,000 files take $before MiB only"
python3 "$SPACE" watch "$MNT_A/small" 10 "$WORK_DIR/enough" >"$WORK_DIR/watched" 2>&1 &
watcher=$!
# 4,000 files are 25 MiB.
below $((empty + 2 * 25 + AHEAD)) "each tenth of 40,000 small files, $before MiB before"
touch "$WORK_DIR/enough"
if wait "$watcher"; then ok "all was right while they were moved, $(cat "$WORK_DIR/watched") times over"; else fail "reading meanwhile: $(cat "$WORK_DIR/watched")"; fi
fsck_finds_nothing "after removing nine of ten"

# ---- all of it -------------------------------------------------------------------------------------------------------
rm -r "$MNT_A/small"
below $((empty + 12)) "nothing"

# ---- the metadata ----------------------------------------------------------------------------------------------------
# A clean stop ends with a checkpoint.
checkpoint() { stop "$META_PID" && meta_start || fail "the metadata daemon does not end or come back"; }
# Files without names go a second later.
no_orphans() { [ "$("$(bin cairn)" status --meta "$META_ADDR" --json | jq .meta.orphans)" = 0 ]; }
small_meta() { [ "$(meta_kib .)" -le $((empty_meta * 105 / 100)) ]; }
mkdir "$MNT_A/names"
python3 "$SPACE" names "$MNT_A/names" 20000
checkpoint
tables=$(meta_kib tables) what="nothing: metadata as small as empty and a twentieth"
small_meta && fail "20,000 files have tables of $tables KiB only"
rm -r "$MNT_A/names"
# The tables are written anew when little is left in them, after one of the next checkpoints: these come a minute after a change.
if wait_until 150 small_meta; then ok "$what: tables of $(meta_kib tables) KiB, $tables before"; else
    fail "$what: $(meta_kib .) KiB, empty $empty_meta"
fi
# Smaller ones are used again: what comes and goes does not add up.
for round in 1 2 3; do
    mkdir "$MNT_A/names"
    python3 "$SPACE" names "$MNT_A/names" 2000
    checkpoint
    rm -r "$MNT_A/names"
    wait_until 30 no_orphans || fail "removed files stay"
    checkpoint
    # The first time it grows, also by removing: pages are written anew for it.
    [ "$round" != 1 ] || grown=$(meta_kib tables)
done
tables=$(meta_kib tables) what="2,000 files came and went three times"
if [ "$grown" -gt 300 ] && [ "$tables" -le $((grown * 4 / 3)) ]; then ok "$what: tables of $tables KiB, $grown after the first"; else
    fail "$what: tables of $tables KiB, $grown after the first"
fi
stop "$META_PID"
"$(bin cairn)" meta dump "$WORK_DIR/meta" >"$WORK_DIR/metadata.dump" && "$(bin cairn)" meta load "$WORK_DIR/metadata.dump" "$WORK_DIR/meta-small" >/dev/null ||
    fail "dump and load"
mv "$WORK_DIR/meta" "$WORK_DIR/meta-grown" && mv "$WORK_DIR/meta-small" "$WORK_DIR/meta"
meta_start
wait_until 20 touch "$MNT_A/goes-on" || fail "the mount does not go on"
if [ "$(meta_kib .)" -le $((empty_meta * 105 / 100)) ]; then ok "dumped and loaded: as small as empty"; else fail "dumped and loaded: $(meta_kib .) KiB, empty $empty_meta"; fi

# ---- daemons that are killed meanwhile -------------------------------------------------------------------------------
python3 "$SPACE" overwrite "$MNT_A/pages" 64 30 "$seed" >"$WORK_DIR/overwrite.log" 2>&1 &
writer=$!
for who in data meta both data; do
    sleep "0.$((RANDOM % 9 + 1))"
    case $who in meta) ;; *) kill_hard "$DATA_PID" ;; esac
    case $who in data) ;; *) kill_hard "$META_PID" && meta_start ;; esac
    case $who in meta) ;; *) data_start ;; esac
done
gone "$writer" && fail "the writer was done before the last kill: $(cat "$WORK_DIR/overwrite.log")"
if wait "$writer"; then ok "nothing was lost while daemons were killed"; else fail "while daemons were killed: $(cat "$WORK_DIR/overwrite.log")"; fi
# What a killed daemon had stored, and nobody was told of, waits for the end of its session, and an hour.
fsck_finds_nothing "after killing"

cluster_stop || fail "the cluster did not end cleanly"

# ---- a full disk, and programs that do not sync ----------------------------------------------------------------------
# A data disk on which about so many MiB can be stored, beside what a data daemon leaves free.
FULL_AT=120
small_disk() {
    rm -rf --one-file-system "$WORK_DIR/meta" "$DATA_DIR"
    mkdir "$DATA_DIR"
    mount -t tmpfs -o "size=$((FULL_AT + 256))M" none "$DATA_DIR" 2>/dev/null || return 1
    at_end "umount -l '$DATA_DIR' 2>/dev/null"
}
refused() { if "$@" 2>"$WORK_DIR/refused"; then return 1; else grep -q "No space left on device" "$WORK_DIR/refused"; fi; }
full_disk() {
    local large=$WORK_DIR/large small=$WORK_DIR/small file
    unset META_ADDR DATA_ADDR META_PID DATA_PID MNT_A_PID MNT_B_PID
    cluster_start 2 || { fail "no cluster on a small disk"; return; }
    # The first fits into the memory of the mount: all of it is taken before anything is refused.
    head -c $(((FULL_AT + 40) << 20)) /dev/urandom >"$large"
    head -c 20M "$large" >"$small"
    cp "$small" "$MNT_A/old" || fail "cp to an empty disk"
    sync "$MNT_A/old"
    refused cp "$large" "$MNT_A/large" && ok "cp of more than fits fails" || fail "cp of more than fits: $(cat "$WORK_DIR/refused")"
    refused dd if="$large" of="$MNT_A/more" bs=1M status=none && ok "dd, too" || fail "dd to a full disk: $(cat "$WORK_DIR/refused")"
    refused cp "$small" "$MNT_B/other" && ok "and cp on a mount that has not met the full disk" || fail "cp on the second mount: $(cat "$WORK_DIR/refused")"
    for file in 1 2 3; do
        refused cp "$ROOT/Cargo.lock" "$MNT_A/small-$file" || fail "cp of a small file to a full disk: $(cat "$WORK_DIR/refused")"
    done
    cmp "$small" "$MNT_A/old" && cmp "$small" "$MNT_B/old" && ok "what was stored before is read" || fail "what was stored before can't be read"
    rm "$MNT_A/large" "$MNT_A/more" "$MNT_B/other" "$MNT_A"/small-? || fail "nothing can be removed from a full disk"
    head -c 60M "$large" >"$WORK_DIR/fits"
    fits() { cp "$WORK_DIR/fits" "$MNT_A/fits" 2>/dev/null && cmp "$WORK_DIR/fits" "$MNT_B/fits"; }
    wait_until 15 fits && ok "with room, it goes on" || fail "what fits can't be written after files were removed"
    wait_until 15 cp "$small" "$MNT_B/again" && cmp "$small" "$MNT_A/again" || fail "the second mount has no room after files were removed"
    fsck_finds_nothing "after a full disk"
    cluster_stop || fail "the cluster on a small disk did not end cleanly"
}
if small_disk; then full_disk; else echo "skipped: no small disk can be mounted here"; fi
exit $failed
