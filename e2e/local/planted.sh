#!/usr/bin/env bash
# Proves that the simulated worlds bite: plants each defect of e2e/planted/ into a copy of the
# repository, where the unit tests must still pass and the worlds must find it.
#
#   e2e/local/planted.sh [NAME…]      only these, without .patch
#
# A patch begins with what the defect is. Lines of these forms change the commands (run in the copy,
# with PINKEEPER_SIM_SEEDS and PINKEEPER_SIM_FROM set for the world):
#   Unit: cargo test …       tests that do not see it        (default: the peer's, without the worlds)
#   World: cargo test …      the world that finds it          (default: the peer's)
#   Seeds: N                 seeds it has to be found within  (default: 400)
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
cache=${PINKEEPER_CACHE:-$HOME/.cache/pinkeeper}
copy=$cache/planted
logs=$cache/logs/planted
unit_default='cargo test -p pinkeeper --lib -- --skip sim::'
world_default='cargo test -p pinkeeper --lib -- --exact sim::tests::in_every_world_what_was_acknowledged_becomes_true_and_nothing_false_is_said'
seeds_default=400

names=("$@")
if [ ${#names[@]} = 0 ]; then
  for patch in e2e/planted/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
mkdir -p "$copy" "$logs"
# Builds of the copy go to a folder of their own, which begins with the dependencies as they are built
# already, and stays: the next run is incremental.
target=$cache/target-planted
built=${CARGO_TARGET_DIR:-$cache/target}/x86_64-unknown-linux-musl/debug
if [ ! -e "$target" ] && [ -e "$built/deps" ]; then
  mkdir -p "$target/x86_64-unknown-linux-musl"
  cp -a --reflink=auto "$built" "$target/x86_64-unknown-linux-musl/debug"
  [ ! -e "$built/../../debug" ] || cp -a --reflink=auto "$built/../../debug" "$target/debug"
fi
export CARGO_TARGET_DIR=$target
export RUST_BACKTRACE=0

# The repository as it is here; files that are equal keep their times, so that little is built anew.
mirror() {
  git ls-files -z --cached --others --exclude-standard |
    tar --null --ignore-failed-read -T - -cf - 2>/dev/null | (mkdir -p "$copy.new" && tar -xf - -C "$copy.new")
  (cd "$copy.new" && find . -type f -print0) | while IFS= read -r -d '' file; do
    cmp -s "$copy.new/$file" "$copy/$file" || { mkdir -p "$copy/$(dirname "$file")"; cp "$copy.new/$file" "$copy/$file"; }
  done
  (cd "$copy" && find . -type f -print0) | while IFS= read -r -d '' file; do
    [ -e "$copy.new/$file" ] || rm "$copy/$file"
  done
  rm -rf "$copy.new"
}

# The header's line for a key, or a default.
header() { sed -n "s/^$2: //p;/^diff /q" "$root/e2e/planted/$1.patch" | head -n 1 | grep . || echo "$3"; }

failed=0
printf '%-32s %-34s %8s\n' defect result seconds
for name in "${names[@]}"; do
  log=$logs/$name.log
  : > "$log"
  mirror
  result=
  began=$SECONDS
  if ! (cd "$copy" && patch -p1 -f --no-backup-if-mismatch < "$root/e2e/planted/$name.patch") >> "$log" 2>&1; then
    result='DOES NOT APPLY'
  elif ! (cd "$copy" && bash -c "$(header "$name" Unit "$unit_default")") >> "$log" 2>&1; then
    result='UNIT TESTS FAIL'
  else
    began=$SECONDS
    seeds=$(header "$name" Seeds "$seeds_default")
    if (cd "$copy" && PINKEEPER_SIM_FROM=0 PINKEEPER_SIM_SEEDS=$seeds bash -c "$(header "$name" World "$world_default")") > "$log.world" 2>&1; then
      result="NOT FOUND in $seeds seeds"
    else
      seed=$(grep -oE '^seed [0-9]+' "$log.world" | head -n 1 || true)
      if [ -n "$seed" ]; then result="found by $seed"; else result='WORLD DID NOT RUN'; fi
    fi
    cat "$log.world" >> "$log"
    rm "$log.world"
  fi
  case $result in found*) ;; *) failed=1; result="$result (see $log)" ;; esac
  printf '%-32s %-34s %8s\n' "$name" "$result" $((SECONDS - began))
done
mirror
exit $failed
