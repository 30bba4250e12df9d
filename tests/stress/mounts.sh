#!/usr/bin/env bash
# All ways in: cairn-mountd in the background, mount -t cairn, mount -t fuse.cairn, an fstab line, options, a sub-tree, an
# ordinary user through fusermount3, cairn demo, cairn status; umount ends the process behind each.
# Usage: mounts.sh     makes a cluster of its own; root, because it mounts
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
is_root || skip "mount(8) needs root"
need_packages fuse3 util-linux jq
lib_trap
work_dir

# The helpers of an installation of our own; what somebody has installed already is put back.
prefix=$WORK_DIR/prefix
for helper in mount.cairn mount.fuse.cairn umount.cairn umount.fuse.cairn umount.fuse; do
    if [ -e "/sbin/$helper" ] || [ -L "/sbin/$helper" ]; then
        mv "/sbin/$helper" "$WORK_DIR/saved-$helper"
        at_end "mv -f '$WORK_DIR/saved-$helper' '/sbin/$helper'"
    else
        at_end "rm -f '/sbin/$helper'"
    fi
done
CAIRN_BIN_DIR=${CAIRN_BIN_DIR:-$TARGET_DIR/$PROFILE} "$ROOT/scripts/install" "$prefix"
for file in bin/cairn sbin/cairn-fsd sbin/cairn-mountd; do [ -x "$prefix/$file" ] || fail "install did not put $file in place"; done

# Where mounts of root log if the machine has no system log.
ROOTS_LOGS=/var/log/cairn
at_end "rm -f '$ROOTS_LOGS/$(tr / - <<<"${WORK_DIR#/}")'-*.log; rmdir '$ROOTS_LOGS' 2>/dev/null"

cluster_start 1
mkdir -p "$MNT_A/sub/dir" "$MNT_A/other"
echo here >"$MNT_A/sub/dir/file"
printf '#!/bin/sh\necho runs\n' >"$MNT_A/sub/script"
chmod 755 "$MNT_A/sub/script"
src=$META_ADDR:/
mnt=$WORK_DIR/way
mkdir "$mnt"
LIB_MOUNTS+=("$mnt")

# The daemon behind a mount point: the processes of ours that name it on their command line.
daemons_of() { pgrep -f -- "(cairn-mountd|mount\.(fuse\.)?cairn) .*$1( |\$)" || true; }
no_daemon() { [ -z "$(daemons_of "$1")" ]; }
away() {
    umount "$1" || { fail "umount of $2"; return; }
    wait_until 10 no_daemon "$1" || fail "$2: the mount daemon still runs 10 s after umount"
}
has_options() {
    local seen opt
    seen=,$(findmnt -n -o OPTIONS "$1"),
    shift
    for opt in "$@"; do case $seen in *,$opt,*) ;; *) fail "option $opt is missing in $seen"; return 1 ;; esac; done
}
works() { [ "$(cat "$1/sub/dir/file")" = here ] && touch "$1/other/touched" && rm "$1/other/touched"; }

# ---- the commands ----------------------------------------------------------------------------------------------------
try() {
    local name=$1
    shift
    if ! timeout 30 "$@" </dev/null >"$WORK_DIR/try.log" 2>&1; then
        fail "$name: $*: $(tail -n 3 "$WORK_DIR/try.log")"
        return 1
    fi
    is_mounted "$mnt" || { fail "$name returned and nothing is mounted"; return 1; }
}
if try "cairn-mountd" "$prefix/sbin/cairn-mountd" "$src" "$mnt"; then
    works "$mnt" || fail "cairn-mountd returned, but the tree does not work"
    away "$mnt" "cairn-mountd" && ok "cairn-mountd in the background"
fi
for type in cairn fuse.cairn; do
    if try "mount -t $type" mount -t "$type" "$src" "$mnt"; then
        works "$mnt" || fail "mount -t $type: the tree does not work"
        findmnt -n -o SOURCE,FSTYPE "$mnt" | grep -q "cairn" || fail "mount -t $type: findmnt says $(findmnt -n -o SOURCE,FSTYPE "$mnt")"
        away "$mnt" "mount -t $type" && ok "mount -t $type"
    fi
done
for type in cairn fuse.cairn; do
    echo "$src $mnt $type noatime,nosuid,_netdev,nofail,noauto,x-systemd.automount 0 0" >"$WORK_DIR/fstab"
    if try "fstab ($type)" mount -T "$WORK_DIR/fstab" "$mnt"; then
        works "$mnt" || fail "fstab ($type): the tree does not work"
        has_options "$mnt" nosuid noatime && ok "fstab line of type $type"
        away "$mnt" "fstab ($type)"
    fi
done

# ---- options ---------------------------------------------------------------------------------------------------------
if try ro mount -t cairn -o ro "$src" "$mnt"; then
    has_options "$mnt" ro
    if touch "$mnt/x" 2>"$WORK_DIR/err"; then fail "a read-only mount takes writes"; else
        grep -qi 'read-only' "$WORK_DIR/err" || fail "ro: $(cat "$WORK_DIR/err")"
    fi
    [ "$(cat "$mnt/sub/dir/file")" = here ] || fail "ro: cannot read"
    away "$mnt" ro && ok "option ro"
fi
if try remount mount -t cairn -o nosuid "$src" "$mnt"; then
    mount -o remount,ro "$mnt" >"$WORK_DIR/err" 2>&1 || fail "remount,ro: $(cat "$WORK_DIR/err")"
    has_options "$mnt" ro nosuid
    touch "$mnt/other/ro" 2>/dev/null && fail "remount,ro: the mount takes writes"
    mount -o remount,rw,noatime "$mnt" >"$WORK_DIR/err" 2>&1 || fail "remount,rw: $(cat "$WORK_DIR/err")"
    has_options "$mnt" rw nosuid noatime
    works "$mnt" && ok "option remount" || fail "remount,rw: the mount does not work"
    mount -o remount,cache=64M "$mnt" 2>&1 | grep -q 'need a new mount' || fail "remount: an option that cannot change is swallowed"
    away "$mnt" remount
fi
mkdir "$WORK_DIR/plain"
"$prefix/sbin/cairn-mountd" "$src" "$WORK_DIR/plain" -o remount,ro >"$WORK_DIR/err" 2>&1 && fail "a plain directory was remounted"
grep -q "no mount of Cairn" "$WORK_DIR/err" || fail "remount of a plain directory: $(cat "$WORK_DIR/err")"
if try defaults "$prefix/sbin/cairn-mountd" "$src" "$mnt" -o ro,defaults; then
    has_options "$mnt" ro && ok "defaults do not undo ro"
    away "$mnt" defaults
fi

# refused NAME TEXT COMMAND...: the command fails with one line that has the text, and nothing is mounted.
# Others may mount and unmount meanwhile.
ours() { grep -c " $WORK_DIR/" /proc/self/mounts || true; }
refused() {
    local name=$1 text=$2 before
    shift 2
    before=$(ours)
    if timeout 60 "$@" >"$WORK_DIR/err" 2>&1; then fail "$name was accepted"; return; fi
    grep -q -- "$text" "$WORK_DIR/err" && [ "$(wc -l <"$WORK_DIR/err")" = 1 ] && ok "$name is refused" || fail "$name: $(cat "$WORK_DIR/err")"
    [ "$(ours)" = "$before" ] || fail "$name: something is mounted"
}
refused "hard=1" "'hard' takes no value" "$prefix/sbin/cairn-mountd" "$src" "$mnt" -o hard=1
refused "a mount point that does not exist" "No such file" "$prefix/sbin/cairn-mountd" "$src" "$WORK_DIR/none"
refused "a mount point that is a file" "is not a directory" "$prefix/sbin/cairn-mountd" "$src" "$WORK_DIR/try.log"
refused "the same tree twice" "is already mounted at" "$prefix/sbin/cairn-mountd" "$src" "$MNT_A"

# ---- what a killed mount leaves --------------------------------------------------------------------------------------
if try killed mount -t cairn "$src" "$mnt"; then
    kill -KILL "$(daemons_of "$mnt")"
    dead() { grep -q 'not connected' < <(stat "$mnt/." 2>&1); }
    wait_until 10 dead || fail "a killed mount is not dead"
    # As docs/operating/recovery.md has it: by the mount point alone, through fstab.
    echo "$src $mnt cairn noatime,_netdev 0 0" >"$WORK_DIR/fstab"
    if timeout 60 mount -T "$WORK_DIR/fstab" "$mnt" >"$WORK_DIR/try.log" 2>&1; then
        grep -q 'took away a dead mount' "$WORK_DIR/try.log" || fail "nothing is said of the dead mount: $(cat "$WORK_DIR/try.log")"
        [ "$(grep -c " $mnt " /proc/self/mounts)" = 1 ] && works "$mnt" && ok "a dead mount is replaced" || fail "a dead mount is in the way"
        away "$mnt" "after a dead mount"
    else
        fail "mount over a dead mount: $(cat "$WORK_DIR/try.log")"
        umount -l "$mnt"
    fi
fi
if try "killed, taken away" mount -t cairn "$src" "$mnt"; then
    exec 7<"$mnt/sub/dir"
    kill -KILL "$(daemons_of "$mnt")"
    wait_until 10 dead || fail "a killed mount is not dead"
    # To have it away only; programs still sit in it.
    umount "$mnt" 2>/dev/null && fail "umount of a dead mount that somebody sits in succeeds"
    umount -l "$mnt" && ! is_mounted "$mnt" && ok "umount -l takes a dead mount away that somebody sits in" || fail "umount -l of a dead mount"
    exec 7<&-
fi
if try "killed, mount -a" mount -t cairn "$src" "$mnt"; then
    kill -KILL "$(daemons_of "$mnt")"
    wait_until 10 dead || fail "a killed mount is not dead"
    # To mount -a the place is mounted.
    timeout 60 mount -a -T "$WORK_DIR/fstab" >"$WORK_DIR/try.log" 2>&1 && dead || fail "mount -a over a dead mount: $(cat "$WORK_DIR/try.log")"
    umount "$mnt" && ! is_mounted "$mnt" && ok "umount takes a dead mount away" || fail "umount of a dead mount"
fi

# ---- umount ----------------------------------------------------------------------------------------------------------
blob() { head -c 8000000 /dev/urandom >"$1"; }
if try umount mount -t cairn "$src" "$mnt"; then
    daemon=$(daemons_of "$mnt")
    blob "$mnt/other/blob"
    umount "$mnt" || fail "umount"
    gone "$daemon" && ok "umount returns when all is stored" || fail "umount returned before the daemon had ended"
fi
mount -t tmpfs none "$mnt" && umount.fuse "$mnt" && ! is_mounted "$mnt" && ok "umount.fuse passes on what is not Cairn's" || fail "umount.fuse of another file system"
# Many times: the threads that read requests may hear of the end in two ways.
lazily() {
    local daemon round=$1
    mount -t cairn "$src" "$mnt" || return 1
    daemon=$(daemons_of "$mnt")
    exec 7>"$mnt/other/lazy$round"
    umount "$mnt" >"$WORK_DIR/err" 2>&1 && { echo "umount of a busy mount succeeds"; return 1; }
    grep -q busy "$WORK_DIR/err" || { echo "busy umount: $(cat "$WORK_DIR/err")"; return 1; }
    umount -l "$mnt" && ! is_mounted "$mnt" || { echo "it is still mounted"; return 1; }
    echo late >&7
    exec 7>&-
    wait_until 10 gone "$daemon" || { echo "the daemon does not end"; return 1; }
    [ "$(cat "$MNT_A/other/lazy$round")" = late ] || { echo "data is lost"; return 1; }
}
all=yes
for round in {1..20}; do
    lazily "$round" >"$WORK_DIR/lazily" 2>&1 || { fail "umount -l, round $round: $(cat "$WORK_DIR/lazily")"; all=; break; }
done
[ -z "$all" ] || ok "umount -l"
if try "umount -f" mount -t cairn "$src" "$mnt"; then
    daemon=$(daemons_of "$mnt")
    echo forced >"$mnt/other/forced"
    umount -f "$mnt" || fail "umount -f"
    wait_until 10 gone "$daemon" && [ "$(cat "$MNT_A/other/forced")" = forced ] && ok "umount -f" || fail "umount -f: the daemon does not end, or data is lost"
fi
if try "lost data" mount -t cairn -o "soft,timeo=1s,logfile=$WORK_DIR/lost.log" "$src" "$mnt"; then
    daemon=$(daemons_of "$mnt")
    stop "$DATA_PID"
    echo "not to be stored" >"$mnt/other/unlucky"
    umount "$mnt" >"$WORK_DIR/err" 2>&1 && fail "umount succeeds though data can't be stored"
    grep -q "can't be stored" "$WORK_DIR/err" && is_mounted "$mnt" && ok "umount fails if data can't be stored" || fail "umount with lost data: $(cat "$WORK_DIR/err")"
    umount -f "$mnt" || fail "umount -f with lost data"
    wait_until 90 gone "$daemon" || fail "umount -f: the daemon does not give up"
    grep -q "written data is lost: 'unlucky', inode" "$WORK_DIR/lost.log" && ok "the log names files whose data is lost" || fail "lost data: $(cat "$WORK_DIR/lost.log")"
    data_start
fi

# ---- servers that are away -------------------------------------------------------------------------------------------
if try soft mount -t cairn -o soft,timeo=2s "$src" "$mnt"; then
    blob "$MNT_A/other/soft"
    sync "$MNT_A/other/soft"
    kill -STOP "$DATA_PID"
    from=$SECONDS
    cat "$mnt/other/soft" >/dev/null 2>"$WORK_DIR/err" && fail "soft: a read from nowhere succeeds"
    kill -CONT "$DATA_PID"
    # One wait, and a little for what the kernel asks again.
    [ $((SECONDS - from)) -le 5 ] && grep -q 'Input/output error' "$WORK_DIR/err" && ok "option soft" || fail "soft: $((SECONDS - from)) s, $(cat "$WORK_DIR/err")"
    away "$mnt" soft
fi

# ---- the log of a mount in the background ----------------------------------------------------------------------------
if [ ! -S /dev/log ] && try "log" mount -t cairn "$src" "$mnt"; then
    log=$ROOTS_LOGS/$(tr / - <<<"${mnt#/}").log
    grep -q connected "$log" && ok "the log of a mount in the background" || fail "no log at $log"
    away "$mnt" log
fi

if try options mount -t cairn -o nosuid,nodev,noexec,noatime,default_permissions,_netdev,allow_other "$src" "$mnt"; then
    has_options "$mnt" nosuid nodev noexec noatime default_permissions allow_other && ok "options arrive at the kernel"
    if "$mnt/sub/script" >/dev/null 2>&1; then fail "noexec: the script ran"; else ok "option noexec"; fi
    before=$(stat -c %X "$mnt/sub/dir/file")
    sleep 1.1
    cat "$mnt/sub/dir/file" >/dev/null
    [ "$(stat -c %X "$mnt/sub/dir/file")" = "$before" ] || fail "noatime: reading moved atime"
    away "$mnt" options
fi
if try exec mount -t cairn "$src" "$mnt"; then
    [ "$("$mnt/sub/script")" = runs ] && ok "programs run from the mount" || fail "a script on the mount does not run"
    away "$mnt" exec
fi
if timeout 30 mount -t cairn -o no_such_option=1 "$src" "$mnt" >"$WORK_DIR/try.log" 2>&1; then
    fail "an unknown option was swallowed"
    away "$mnt" "unknown option"
else
    grep -q no_such_option "$WORK_DIR/try.log" && ok "an unknown option is refused by name" || fail "unknown option: $(cat "$WORK_DIR/try.log")"
fi
if timeout 60 mount -t cairn "127.0.0.1:1:/" "$mnt" >"$WORK_DIR/try.log" 2>&1; then
    fail "a mount from nowhere succeeded"
    away "$mnt" nowhere
else
    grep -q '127.0.0.1:1' "$WORK_DIR/try.log" && ok "no server: the message names it" || fail "no server: $(cat "$WORK_DIR/try.log")"
fi
if timeout 30 mount -t cairn "$META_ADDR:/not/there" "$mnt" >"$WORK_DIR/try.log" 2>&1; then
    fail "a sub-tree that does not exist was mounted"
    away "$mnt" "no sub-tree"
else
    [ "$(grep -c 'not/there' "$WORK_DIR/try.log") of $(wc -l <"$WORK_DIR/try.log")" = "1 of 1" ] && ok "no such sub-tree: one line that names it" || fail "no such sub-tree: $(cat "$WORK_DIR/try.log")"
fi

# ---- a sub-tree ------------------------------------------------------------------------------------------------------
if try subtree mount -t cairn "$META_ADDR:/sub" "$mnt"; then
    [ "$(ls "$mnt" | tr '\n' ' ')" = "dir script " ] || fail "sub-tree shows: $(ls "$mnt")"
    [ "$(cat "$mnt/dir/file")" = here ] || fail "sub-tree: cannot read"

    echo new >"$mnt/dir/new"
    [ "$(cat "$MNT_A/sub/dir/new")" = new ] || fail "sub-tree: not the same tree"
    away "$mnt" sub-tree && ok "a sub-tree"
fi

# ---- somebody else ---------------------------------------------------------------------------------------------------
mkdir "$WORK_DIR/user"
chown nobody "$WORK_DIR/user"
mkdir -p "$MNT_A/public"
chmod 1777 "$MNT_A/public"
LIB_MOUNTS+=("$WORK_DIR/user/mnt")
mode=$(stat -c %a /dev/fuse)
at_end "chmod $mode /dev/fuse"
chmod 666 /dev/fuse
as_user() { setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME="$WORK_DIR/user" XDG_RUNTIME_DIR="$WORK_DIR/user" "$@"; }
as_user mkdir "$WORK_DIR/user/mnt"
if as_user timeout 30 "$prefix/sbin/cairn-mountd" "$src" "$WORK_DIR/user/mnt" </dev/null >"$WORK_DIR/try.log" 2>&1; then
    as_user sh -c "echo mine >'$WORK_DIR/user/mnt/public/f'" || fail "ordinary user: cannot write to a directory for all"
    [ "$(stat -c %U "$MNT_A/public/f")" = nobody ] || fail "ordinary user: the owner is $(stat -c %U "$MNT_A/public/f")"
    [ "$(find "$WORK_DIR/user/cairn" -printf '%u%m ')" = "nobody700 nobody600 " ] || fail "ordinary user: life file: $(ls -lR "$WORK_DIR/user/cairn")"
    as_user touch "$WORK_DIR/user/mnt/other/f" 2>/dev/null && fail "ordinary user: wrote where only root may"
    as_user env -u HOME umount "$WORK_DIR/user/mnt" || fail "ordinary user: umount"
    is_mounted "$WORK_DIR/user/mnt" && fail "ordinary user: umount leaves the mount"
    no_daemon "$WORK_DIR/user/mnt" || fail "ordinary user: umount returned before the daemon had ended"
    as_user timeout 30 "$prefix/sbin/cairn-mountd" "$src" "$WORK_DIR/user/mnt" </dev/null || fail "ordinary user: a second mount"
    [ -S /dev/log ] || [ -s "$(echo "$WORK_DIR"/user/.local/state/cairn/*.log)" ] || fail "ordinary user: no log"
    if as_user fusermount3 -u "$WORK_DIR/user/mnt"; then
        wait_until 10 no_daemon "$WORK_DIR/user/mnt" && ok "an ordinary user through fusermount3" || fail "ordinary user: the daemon stays"
        [ -z "$(ls "$WORK_DIR/user/cairn")" ] || fail "ordinary user: a life file stays"
    else fail "fusermount3 -u"; fi
else
    fail "ordinary user: $(tail -n 3 "$WORK_DIR/try.log")"
fi

# ---- an end while somebody is inside -------------------------------------------------------------------------------
# busy_end NAME STARTER...: SIGTERM to the daemon of $busy while a program sits in it; what it wrote is stored.
busy=$WORK_DIR/user/mnt
busy_end() {
    local name=$1 daemon inside
    shift
    "$@" timeout 30 "$prefix/sbin/cairn-mountd" "$src" "$busy" </dev/null >"$WORK_DIR/try.log" 2>&1 || { fail "$name: $(tail -n 3 "$WORK_DIR/try.log")"; return; }
    daemon=$(daemons_of "$busy")
    rm -f "$WORK_DIR/user/inside"
    "$@" sh -c "cd '$busy/public' && echo \$\$ >'$WORK_DIR/user/inside' && exec sleep 60" &
    wait_until 5 test -s "$WORK_DIR/user/inside" || { fail "$name: nobody gets inside"; return; }
    inside=$(cat "$WORK_DIR/user/inside")
    LIB_PIDS+=("$inside")
    in_there() { [ "$(readlink "/proc/$inside/cwd")" = "$busy/public" ]; }
    wait_until 5 in_there || fail "$name: nobody is inside"
    "$@" sh -c "echo '$name' >'$busy/public/busy'"
    kill -TERM "$daemon"
    # 5 s for the users to leave, and some for a slow machine.
    if wait_until 15 gone "$daemon"; then
        [ "$(cat "$MNT_A/public/busy")" = "$name" ] && ok "$name: a busy mount ends by SIGTERM" || fail "$name: a busy mount lost data"
    else
        fail "$name: a busy mount does not end by SIGTERM"
        kill -KILL "$daemon"
    fi
    stop "$inside"
    is_mounted "$busy" && fail "$name: still mounted"
    rm -f "$MNT_A/public/busy"
}
busy_end root env
busy_end "ordinary user" as_user

# ---- status and demo -------------------------------------------------------------------------------------------------
if timeout 20 "$prefix/bin/cairn" status --meta "$META_ADDR" >"$WORK_DIR/status" 2>&1 && [ -s "$WORK_DIR/status" ]; then
    timeout 20 "$prefix/bin/cairn" status --meta "$META_ADDR" --json | jq -e . >/dev/null && ok "cairn status" || fail "cairn status --json is no JSON"
else
    fail "cairn status: $(cat "$WORK_DIR/status")"
fi
demo_at() {
    spawn "$1" "$prefix/bin/cairn" demo "$WORK_DIR/demo" "${@:2}"
    mkdir -p "$WORK_DIR/demo"
    ready() { tail -n "+$((SPAWNED_FROM + 1))" "$SPAWNED_LOG" | grep -q '^ready' || gone "$SPAWNED_PID"; }
    wait_until 30 ready || true
    is_mounted "$WORK_DIR/demo"
}
mkdir "$WORK_DIR/demo" "$WORK_DIR/state"
LIB_MOUNTS+=("$WORK_DIR/demo")
for signal in TERM INT HUP; do
    if demo_at "demo-$signal" --state "$WORK_DIR/state"; then
        [ "$signal" = TERM ] && grep -q "cairn status --meta 127.0.0.1:" "$SPAWNED_LOG" && echo kept >"$WORK_DIR/demo/f"
        [ "$(cat "$WORK_DIR/demo/f")" = kept ] || fail "demo --state does not keep what was written"
        kill -"$signal" "$SPAWNED_PID"
        wait_until 15 gone "$SPAWNED_PID" || { fail "demo does not end on SIG$signal"; kill -KILL "$SPAWNED_PID"; }
        is_mounted "$WORK_DIR/demo" && { fail "demo left its mount behind on SIG$signal"; umount -l "$WORK_DIR/demo"; }
    else
        fail "demo did not mount: $(tail -n 3 "$SPAWNED_LOG")"
    fi
done
if demo_at demo-plain; then
    echo x >"$WORK_DIR/demo/g"
    [ ! -e "$WORK_DIR/demo/f" ] || fail "demo without --state shows an old tree"
    stop "$SPAWNED_PID" 15 || fail "demo does not end"
    is_mounted "$WORK_DIR/demo" && fail "demo left its mount behind"
    ok "cairn demo"
fi

cluster_stop || fail "the cluster did not end cleanly"
exit $failed
