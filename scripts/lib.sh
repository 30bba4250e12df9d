# shellcheck shell=bash
# What all our scripts share: packages and tools they need, builds, processes and mounts they start and must end.
#
# Rules: a script ends only what it started, by pid; each wait has a bound; nothing is left mounted. Source this file after
# `set -euo pipefail`, call `lib_trap` once, then use the helpers.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}
TOOLS_DIR=${CAIRN_TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/cairn-tools}

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }
# A test that cannot run here leaves with this code; the reason is its last line on stderr.
readonly SKIP_CODE=77
skip() { say "skipped: $*"; exit "$SKIP_CODE"; }
# A test that goes on after a failure ends with `exit $failed`.
failed=0
fail() { echo "FAILED: $*"; failed=1; }
ok() { echo "ok      $*"; }

is_root() { [ "$(id -u)" = 0 ]; }

# need_packages PACKAGE...: install the Debian packages that are missing, or say what to type.
need_packages() {
    local missing=() p
    for p in "$@"; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} = 0 ] && return 0
    if ! command -v apt-get >/dev/null; then
        die "please install what Debian calls: ${missing[*]}"
    fi
    is_root || die "please install: sudo apt-get install ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -y)
    "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return 0
    "${apt[@]}" update >/dev/null || true
    "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null || die "apt-get could not install: ${missing[*]}"
}

# need_rust: cargo of at least the version in Cargo.toml.
need_rust() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs or your distribution"
}

# need_crate_tool NAME VERSION [PATCH]: a command line program from crates.io, pinned, built once and kept outside of the tree.
# Built lightly optimised: a tool that runs for seconds is not worth minutes of compilation.
need_crate_tool() {
    local name=$1 version=$2 patch=${3:-} stamp from
    stamp=$TOOLS_DIR/stamps/$name-$version${patch:+-$(basename "$patch")}
    [ -e "$stamp" ] && [ -x "$TOOLS_DIR/bin/$name" ] && return 0
    need_rust
    say "building $name $version${patch:+ with $(basename "$patch")} (once; kept in $TOOLS_DIR)"
    mkdir -p "$TOOLS_DIR/stamps" "$TOOLS_DIR/build"
    from=(--version "$version" "$name")
    if [ -n "$patch" ]; then
        crate_patched "$name" "$version" "$patch" "$TOOLS_DIR/build/source" || return 1
        from=(--path "$TOOLS_DIR/build/source/crates/$name-$version")
    fi
    CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$TOOLS_DIR/build" \
        cargo install --quiet --locked --debug --force --root "$TOOLS_DIR" "${from[@]}" || return 1
    rm -rf "$TOOLS_DIR/build" "$TOOLS_DIR/stamps/$name-"[0-9]*
    touch "$stamp"
}
# crate_patched NAME VERSION PATCH DIR: the crate's source with PATCH in DIR/crates/NAME-VERSION, belonging to no workspace
# around it.
crate_patched() {
    local dir=$4
    need_packages patch
    rm -rf "$dir"
    mkdir -p "$dir/src"
    echo 'fn main() {}' >"$dir/src/main.rs"
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\n[workspace]\n[dependencies]\n%s = "=%s"\n' "$1" "$2" >"$dir/Cargo.toml"
    cargo vendor --quiet --versioned-dirs --manifest-path "$dir/Cargo.toml" "$dir/crates" >/dev/null &&
        patch --quiet --strip 1 --directory "$dir/crates/$1-$2" <"$3" && rm "$dir/Cargo.toml" &&
        echo '[workspace]' >>"$dir/crates/$1-$2/Cargo.toml"
}
tool() { printf '%s/bin/%s' "$TOOLS_DIR" "$1"; }

# ---- waiting ---------------------------------------------------------------------------------------------------------

# wait_until SECONDS COMMAND...: run the command until it succeeds; false when the time is over.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}
# Has the process ended? (A zombie has: its parent, perhaps not us, has not looked yet.)
gone() {
    local line
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
    line=${line##*) }
    [ "${line%% *}" = Z ]
}
line_in() { grep -q -e "$1" -- "$2"; }
is_mounted() { mountpoint -q -- "$1"; }

# ---- processes and mounts of ours ------------------------------------------------------------------------------------

declare -a LIB_PIDS=() LIB_MOUNTS=() LIB_CLEANUP=() LIB_LOGS=()
WORK_DIR=

# work_dir: a directory of our own for logs, state and mount points; removed at the end unless something failed.
work_dir() {
    [ -n "$WORK_DIR" ] && return 0
    WORK_DIR=$(mktemp -d "${TMPDIR:-/tmp}/cairn-XXXXXX")
    chmod 755 "$WORK_DIR"
}

# spawn NAME COMMAND...: start in the background with its log; the pid is in SPAWNED_PID, the log in SPAWNED_LOG.
# Starting the same name again appends to the same log.
spawn() {
    local name=$1
    shift
    work_dir
    SPAWNED_LOG="$WORK_DIR/$name.log"
    SPAWNED_FROM=$(wc -l 2>/dev/null <"$SPAWNED_LOG" || echo 0)
    "$@" >>"$SPAWNED_LOG" 2>&1 </dev/null &
    SPAWNED_PID=$!
    LIB_PIDS+=("$SPAWNED_PID")
    case " ${LIB_LOGS[*]} " in *" $SPAWNED_LOG "*) ;; *) LIB_LOGS+=("$SPAWNED_LOG") ;; esac
}

# The line `listening on ADDR` that the last spawned daemon printed; ADDR is left in LISTEN_ADDR.
spawned_listens() {
    LISTEN_ADDR=$(tail -n "+$((SPAWNED_FROM + 1))" "$SPAWNED_LOG" | sed -n 's/^listening on \([^ ]*\).*/\1/p' | head -n 1)
    [ -n "$LISTEN_ADDR" ] || ! kill -0 "$SPAWNED_PID" 2>/dev/null
}
wait_listening() {
    wait_until 20 spawned_listens || true
    [ -n "$LISTEN_ADDR" ] || { say "no 'listening on' line in 20 s; log:"; tail -n 30 "$SPAWNED_LOG" >&2; return 1; }
}

# stop PID [SECONDS]: SIGTERM, wait for the end, SIGKILL when it takes too long (which counts as a failure).
stop() {
    local pid=$1 seconds=${2:-20}
    kill -TERM "$pid" 2>/dev/null || return 0
    if ! wait_until "$seconds" gone "$pid"; then
        say "process $pid did not end within $seconds s of SIGTERM"
        kill -KILL "$pid" 2>/dev/null || true
        wait_until 5 gone "$pid" || true
        return 1
    fi
    wait "$pid" 2>/dev/null || true
}
kill_hard() {
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    wait_until 10 gone "$1"
}

# unmount DIR: plain umount, tried for 10 s (something may just be closing a file); lazily as the last resort.
unmount() {
    local dir=$1
    is_mounted "$dir" || stat "$dir" >/dev/null 2>&1 || true
    grep -q " $(readlink -m -- "$dir") " /proc/self/mounts || return 0
    wait_until 10 umount "$dir" && return 0
    say "umount $dir failed for 10 s; detaching it lazily"
    umount -l "$dir" 2>/dev/null || fusermount3 -uz "$dir" 2>/dev/null || true
    return 1
}

at_end() { LIB_CLEANUP+=("$*"); }

# lib_finish CODE: end and unmount all that is ours; show and keep the logs when CODE says that something failed.
lib_finish() {
    local code=$1 i
    trap '' INT TERM
    set +e
    for ((i = ${#LIB_CLEANUP[@]} - 1; i >= 0; i--)); do eval "${LIB_CLEANUP[i]}"; done
    for ((i = ${#LIB_MOUNTS[@]} - 1; i >= 0; i--)); do unmount "${LIB_MOUNTS[i]}"; done
    for ((i = ${#LIB_PIDS[@]} - 1; i >= 0; i--)); do gone "${LIB_PIDS[i]}" || stop "${LIB_PIDS[i]}" 10; done
    if [ "$code" != 0 ] && [ "$code" != "$SKIP_CODE" ]; then
        for i in "${LIB_LOGS[@]}"; do
            [ -s "$i" ] && { say "---- last lines of $(basename "$i")"; tail -n 25 "$i" >&2; }
        done
        [ -n "$WORK_DIR" ] && say "---- kept for you to look at: $WORK_DIR"
    elif [ -n "$WORK_DIR" ] && ! grep -q " $WORK_DIR/" /proc/self/mounts; then
        rm -rf --one-file-system "$WORK_DIR"
    fi
}
lib_cleanup() {
    local code=$?
    lib_finish "$code"
    exit "$code"
}
lib_trap() {
    trap lib_cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# ---- a cluster of our own on loopback --------------------------------------------------------------------------------

# bin NAME: a program of ours, from where this run built it.
PROFILE=${CAIRN_PROFILE:-release}
bin() {
    local path="${CAIRN_BIN_DIR:-$TARGET_DIR/$PROFILE}/$1"
    [ -x "$path" ] || die "$path is missing: build it first (cargo build --release)"
    printf '%s' "$path"
}

# meta_start / data_start: (re)start a daemon of the cluster; a restart takes the address it had.
meta_start() {
    work_dir
    mkdir -p "$WORK_DIR/meta"
    spawn meta "$(bin cairn-fsd)" meta --data-dir "$WORK_DIR/meta" --listen "${META_ADDR:-127.0.0.1:0}" ${META_ARGS:-}
    META_PID=$SPAWNED_PID
    wait_listening || return 1
    META_ADDR=$LISTEN_ADDR
}
data_start() { data_begin && data_ready; }
# data_begin, data_ready: the same in two steps, for who starts something else meanwhile.
data_begin() {
    mkdir -p "$WORK_DIR/data"
    spawn data "$(bin cairn-fsd)" data --data-dir "$WORK_DIR/data" --listen "${DATA_ADDR:-127.0.0.1:0}" --meta "$META_ADDR" ${DATA_ARGS:-}
    DATA_PID=$SPAWNED_PID
    DATA_FROM=$SPAWNED_FROM
}
data_ready() {
    SPAWNED_PID=$DATA_PID SPAWNED_LOG=$WORK_DIR/data.log SPAWNED_FROM=$DATA_FROM
    wait_listening || return 1
    DATA_ADDR=$LISTEN_ADDR
}
# mount_at DIR [OPTIONS] [SUBTREE]: cairn-mountd in the foreground as a process of ours; its pid is in MOUNT_PID.
mount_at() { mount_begin "$@" && mount_ready "$1" "$MOUNT_PID"; }
# mount_begin DIR [OPTIONS] [SUBTREE], mount_ready DIR PID: the same in two steps.
mount_begin() {
    local dir=$1 opts=${2:-} sub=${3:-/} args=()
    mkdir -p "$dir"
    [ -n "$opts" ] && args=(-o "$opts")
    spawn "mount-$(basename "$dir")" "$(bin cairn-mountd)" "$META_ADDR:$sub" "$dir" -f "${args[@]}"
    MOUNT_PID=$SPAWNED_PID
    LIB_MOUNTS+=("$dir")
}
mount_ready() {
    local dir=$1 pid=$2
    mounted_or_dead() { is_mounted "$dir" || gone "$pid"; }
    # One that was killed is not waited for, unless it left no life file: then 30 s after it or its server was last up.
    wait_until 50 mounted_or_dead || true
    is_mounted "$dir" || { say "mount at $dir did not come up:"; tail -n 30 "$WORK_DIR/mount-$(basename "$dir").log" >&2; return 1; }
}
# cluster_start [MOUNTS]: metadata and data daemon, and mounts $WORK_DIR/mnt-a, mnt-b ...; paths in MNT_A and MNT_B.
cluster_start() {
    local mounts=${1:-1}
    work_dir
    meta_start || return 1
    data_start || return 1
    MNT_A="$WORK_DIR/mnt-a"
    MNT_B="$WORK_DIR/mnt-b"
    mount_at "$MNT_A" "${MOUNT_OPTS:-allow_other}" || return 1
    MNT_A_PID=$MOUNT_PID
    [ "$mounts" -lt 2 ] || cluster_second
}
# cluster_second: the second mount of a cluster that runs.
cluster_second() {
    mount_at "$MNT_B" "${MOUNT_OPTS:-allow_other}" || return 1
    MNT_B_PID=$MOUNT_PID
}
# cluster_stop: everything down in order; false if something did not end in time or by itself.
cluster_stop() {
    local ok=0
    [ -n "${MNT_B_PID:-}" ] && { unmount "$MNT_B" || ok=1; wait_until 20 gone "$MNT_B_PID" || ok=1; }
    [ -n "${MNT_A_PID:-}" ] && { unmount "$MNT_A" || ok=1; wait_until 20 gone "$MNT_A_PID" || ok=1; }
    [ -n "${DATA_PID:-}" ] && { stop "$DATA_PID" || ok=1; }
    [ -n "${META_PID:-}" ] && { stop "$META_PID" || ok=1; }
    return $ok
}
# A network of our own.
# proxy_start NAME TARGET: its address is in LISTEN_ADDR; it does what is written to $WORK_DIR/NAME.ctl.
proxy_start() {
    mkfifo "$WORK_DIR/$1.ctl"
    spawn "$1" "$(bin cairn-test-proxy)" "$2" "$WORK_DIR/$1.ctl"
    wait_listening
}
# net WHICH COMMAND...: to the proxy net-WHICH.
net() { local to=$1; shift; echo "$*" >"$WORK_DIR/net-$to.ctl"; }
# fsck_clean: cairn fsck has checked everything and found nothing wrong. Blocks that a dead mount never committed are not wrong.
fsck_clean() {
    local code=0
    timeout 120 "$(bin cairn)" fsck --meta "$META_ADDR" >"$WORK_DIR/fsck.txt" 2>&1 || code=$?
    [ "$code" = 0 ] || { echo "cairn fsck: exit code $code"; cat "$WORK_DIR/fsck.txt"; return 1; }
}
