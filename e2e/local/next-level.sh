#!/usr/bin/env bash
# Builds the successor that tests upgrade to: this program with the feature next-level.
#
#   e2e/local/next-level.sh FILE      where to put it
#
# Invariant: the program under test is not replaced. Both are built to the same place, so this one is
# moved away, and cargo puts the other one back without building it again.
set -euo pipefail
# shellcheck source=e2e/local/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$REPOSITORY"
build() { cargo build --target "$RUST_TARGET" -p pinkeeper-operator --bin pinkeeper "$@"; }
build --features next-level
mkdir -p "$(dirname "$1")"
cp "$STATIC_BINARY" "$1"
build
