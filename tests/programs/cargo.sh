#!/usr/bin/env bash
# cargo build and test of a generated workspace (no dependencies, no network) with its target directory on the mount.
# Usage: cargo.sh DIR
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
dir=$(readlink -f "$1")/cargo
need_rust
lib_trap
rm -rf "$dir"
mkdir -p "$dir"
cd "$dir"
printf '[workspace]\nresolver = "2"\nmembers = ["a", "b", "c", "main"]\n' >Cargo.toml
for c in a b c; do
    mkdir -p "$c/src"
    printf '[package]\nname = "%s"\nversion = "0.1.0"\nedition = "2021"\n' "$c" >"$c/Cargo.toml"
    for i in $(seq 1 15); do printf 'pub fn f%s(x: u64) -> u64 { x.wrapping_mul(%s) + 1 }\n' "$i" "$i" >"$c/src/m$i.rs"; done
    { for i in $(seq 1 15); do echo "pub mod m$i;"; done
      printf 'pub fn all(x: u64) -> u64 { let mut x = x;\n'
      for i in $(seq 1 15); do echo "x = m$i::f$i(x);"; done
      printf 'x }\n#[cfg(test)] mod tests { #[test] fn runs() { assert!(super::all(1) > 0); } }\n'; } >"$c/src/lib.rs"
done
mkdir -p main/src
printf '[package]\nname = "main"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\na = { path = "../a" }\nb = { path = "../b" }\nc = { path = "../c" }\n' >main/Cargo.toml
echo 'fn main() { println!("{}", a::all(1) ^ b::all(2) ^ c::all(3) > 0); }' >main/src/main.rs
unset CARGO_TARGET_DIR RUSTFLAGS CARGO_PROFILE_RELEASE_LTO
export CARGO_NET_OFFLINE=true
cargo build -q --workspace
[ "$(./target/debug/main)" = true ]
cargo test -q --workspace >/dev/null
cargo build --workspace 2>second
if grep Compiling second; then echo "cargo: a second build compiles again"; exit 1; fi
echo '// touched' >>b/src/m1.rs
cargo build --workspace 2>third
grep -q 'Compiling b ' third
if grep 'Compiling a ' third; then echo "cargo: an untouched crate was compiled again"; exit 1; fi
echo "cargo: built, tested, fresh the second time, incremental after a change"
cd /
rm -rf "$dir"
