#!/usr/bin/env bash
# Cairn's decoders, fed by libFuzzer: each target runs on what is kept in corpus/, then looks for something new.
#
# Usage: tests/fuzz/run.sh [SECONDS [TARGET...]]     SECONDS for each target (default 5), all targets by default
#   SEED=N repeats a run. What crashes is kept in $FUZZ_OUT (default: a new directory below /tmp), new inputs that reach
#   new code beside it. Two targets run at a time, or as many as JOBS says.
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
cd "$ROOT/tests/fuzz"
readonly CARGO_FUZZ_VERSION=0.13.2

seconds=${1:-5}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd fuzz_targets && for f in *.rs; do echo "${f%.rs}"; done)
seed=${SEED:-$((RANDOM * 32768 + RANDOM + 1))}
out=${FUZZ_OUT:-$(mktemp -d "${TMPDIR:-/tmp}/cairn-fuzz-XXXXXX")}

need_rust
# libFuzzer is C++.
need_packages g++
need_crate_tool cargo-fuzz "$CARGO_FUZZ_VERSION"

# Stable Rust: coverage needs no nightly compiler, sanitizers would. There is no `cfg(fuzzing)`: what runs is what users run.
build() {
    "$(tool cargo-fuzz)" fuzz build --fuzz-dir . --sanitizer none --no-cfg-fuzzing --codegen-units 16 \
        --target-dir "$TARGET_DIR/fuzz" "$@"
}
say "building (in $TARGET_DIR/fuzz)"
if [ ${#targets[@]} = 1 ]; then build "${targets[0]}"; else build; fi
binaries="$TARGET_DIR/fuzz/$(rustc -vV | sed -n 's/^host: //p')/release"

# Ends with the status of the target; a hang, and too much memory, are failures.
run_one() {
    local target=$1 code=0
    mkdir -p "$out/new/$target" "corpus/$target"
    "$binaries/$target" -seed="$seed" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=8192 \
        -artifact_prefix="$out/$target-" "$out/new/$target" "corpus/$target" >"$out/$target.log" 2>&1 || code=$?
    if [ "$code" = 0 ]; then
        echo "$target: $(grep -E '^Done ' "$out/$target.log")"
    else
        echo "$target: FAILED with seed $seed; the end of its log:"
        grep -vE '^(#|DEDUP|"|\s*$)' "$out/$target.log" | tail -n 40
        return 1
    fi
}
export -f run_one
export binaries seed seconds out
echo "seed $seed, $seconds s each; what is found stays in $out"
printf '%s\n' "${targets[@]}" | xargs -P "${JOBS:-2}" -I{} bash -c 'run_one {}' || die "a decoder failed: the inputs are in $out"
