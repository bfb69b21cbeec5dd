#!/usr/bin/env bash
# Role: runs every fuzz target for some seconds; installs what that needs.
# Invariants: a target that finds something does not hide the ones after it;
# what is found is named, and kept in fuzz/artifacts until somebody looks.
#
# Usage: fuzz.sh SECONDS
set -euo pipefail
# shellcheck source=e2e/local/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SECONDS_EACH="$1"
TOOLS="$CACHE/fuzz"
VERSION=0.13.2
# One allocation of a reader: a record of the log may be 64 MiB.
ALLOCATION_MB_MAX=80
# Sanitizers do not work with musl.
TARGET=x86_64-unknown-linux-gnu
export CARGO_TARGET_DIR="$TOOLS/target"

install_tools() {
  rustup toolchain list | grep -q '^nightly' \
    || rustup toolchain install nightly --profile minimal
  [ -x "$TOOLS/bin/cargo-fuzz" ] \
    || cargo install cargo-fuzz --version "$VERSION" --locked --target "$TARGET" --root "$TOOLS"
  PATH="$TOOLS/bin:$PATH"
}

install_tools
cd "$REPOSITORY"
failed=0
for file in fuzz/fuzz_targets/*.rs; do
  name="$(basename "$file" .rs)"
  say "fuzzing $name for $SECONDS_EACH s"
  mkdir -p "$TOOLS/corpus/$name"
  # The flag of .cargo/config.toml, where it is for musl alone.
  RUSTFLAGS="--cfg tokio_unstable" cargo +nightly fuzz run --target "$TARGET" "$name" \
    "$TOOLS/corpus/$name" -- -max_total_time="$SECONDS_EACH" -malloc_limit_mb="$ALLOCATION_MB_MAX" \
    -max_len=4096 -timeout=10 -print_final_stats=1 || failed=$((failed + 1))
done
[ "$failed" -eq 0 ] || die "$failed fuzz targets found something: see fuzz/artifacts"
