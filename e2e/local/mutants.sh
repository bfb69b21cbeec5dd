#!/usr/bin/env bash
# Role: makes small wrong changes ("mutants") one at a time in the modules where a wrong decision loses
# data or lies (.cargo/mutants.toml names them), and runs the tests on each: first the unit tests, then,
# on what they do not find, 200 simulated worlds. Lists what neither finds.
# Invariants: only a copy of the repository is changed; tests that use the network or take long are left
# out, since they would find mutants by chance; a run that was ended goes on with the part it was at.
#
# Each part is a sample of all modules.
#
# Usage: mutants.sh                    all parts, from the next one on (10 hours on two cores)
#        mutants.sh --parts N          only the next N of the 40 parts
#        mutants.sh --since REVISION   only mutants in lines that changed since then
#        mutants.sh --report           what was found so far
#        mutants.sh --beside COMMAND…  runs the command, and parts at the lowest priority until it ends
set -euo pipefail
# shellcheck source=e2e/local/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VERSION=27.1.0
PARTS=40
ROOT="$CACHE/mutants"
COPY="$ROOT/copy"
RESULTS="$ROOT/results"
LOG="$ROOT/log.txt"
# The host's own target links several times as fast as the static one.
TARGET=x86_64-unknown-linux-gnu
# With a mutant that makes a test wait for ever, that is all it takes.
UNITS_SECONDS_MAX=180
WORLDS_SECONDS_MAX=900
# Unit tests that are left out, by the beginnings of their names.
LEFT_OUT=(sim:: rpc:: rest:: consensus::tests::damage consensus::tests::openrafts_store_suite)
PEER_WORLDS=sim::tests::in_every_world_acknowledged_writes_take_effect_and_answers_are_true
POD_WORLDS=in_every_world_of_pods_pins_are_kept_and_nothing_false_is_written

# Not for a command that runs beside.
settings() {
  export CARGO_TERM_COLOR=never CARGO_PROFILE_DEV_DEBUG=0 CARGO_BUILD_TARGET="$TARGET"
  # As .cargo/config.toml has it for the static target.
  export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="--cfg tokio_unstable"
  export CARGO_TARGET_DIR="$CACHE/target-mutants" PINKEEPER_SIM_SEEDS=200
}

install_tool() {
  if [ ! -x "$ROOT/bin/cargo-mutants" ]; then
    say "building cargo-mutants $VERSION (2 minutes)"
    cargo install cargo-mutants --version "$VERSION" --locked --root "$ROOT" \
      --target-dir "$ROOT/build"
    rm -rf "$ROOT/build"
  fi
  PATH="$ROOT/bin:$PATH"
}

# mutate PACKAGE TEST-TARGET SECONDS OPTIONS... -- -- TEST-OPTIONS...: tries mutants; the lists are in
# $ROOT/run/mutants.out then. That some were not found (2), or made a test wait for ever (3), is no
# failure of the run; that the tests fail without any is one.
mutate() {
  local package="$1" target="$2" seconds="$3" result=0
  shift 3
  rm -rf "$ROOT/run"
  mkdir -p "$ROOT/run"
  cargo mutants --dir "$COPY" --in-place --package "$package" --output "$ROOT/run" \
    --timeout "$seconds" --no-times --colors never "--cargo-arg=$target" "$@" >>"$LOG" 2>&1 || result=$?
  case "$result" in
    0 | 2 | 3) ;;
    *) tail -n 30 "$LOG" >&2 && die "cargo mutants ended with $result" "see $LOG" ;;
  esac
}

# collect KIND LIST...: the mutants of these lists of the last run, as lines "KIND NAME".
collect() {
  local kind="$1" list
  shift
  for list in "$@"; do
    [ ! -e "$ROOT/run/mutants.out/$list.txt" ] || sed "s/^/$kind /" "$ROOT/run/mutants.out/$list.txt"
  done
}

# patterns: one that names just this mutant, for each line.
patterns() { sed -e 's/[][\.*^$+?(){}|]/\\&/g' -e 's/^/^/' -e 's/$/$/'; }

# package NAME WORLDS-TARGET WORLDS-TEST OPTIONS...: "units", "worlds", "missed" or "unviable" and the
# name, for each mutant that the options choose.
package() {
  local name="$1" target="$2" test="$3" slow pattern skips=() only=()
  shift 3
  for slow in "${LEFT_OUT[@]}"; do skips+=(--skip "$slow"); done
  say "  $name: unit tests"
  mutate "$name" --lib "$UNITS_SECONDS_MAX" "$@" -- -- "${skips[@]}"
  collect units caught timeout
  collect unviable unviable
  while IFS= read -r pattern; do only+=(--re "$pattern"); done \
    < <(collect '' missed | sed 's/^ //' | patterns)
  [ ${#only[@]} -gt 0 ] || return 0
  say "  $name: worlds, on $((${#only[@]} / 2)) mutants that unit tests did not find"
  mutate "$name" "$target" "$WORLDS_SECONDS_MAX" "${only[@]}" -- -- --exact "$test"
  collect worlds caught timeout
  collect missed missed
}

both_packages() {
  package pinkeeper --lib "$PEER_WORLDS" "$@"
  package pinkeeper-operator --test=worlds "$POD_WORLDS" "$@"
}

run_parts() {
  local count="$1" next
  for ((; count > 0; count--)); do
    next="$(cat "$ROOT/next" 2>/dev/null || echo 0)"
    say "part $((next + 1)) of $PARTS"
    both_packages --sharding round-robin --shard "$next/$PARTS" >"$RESULTS/partial"
    mv "$RESULTS/partial" "$RESULTS/part-$next.txt"
    echo $(((next + 1) % PARTS)) >"$ROOT/next"
  done
  report
}

run_change() {
  git diff "$1" -- '*.rs' >"$ROOT/change.diff"
  both_packages --in-diff "$ROOT/change.diff" >"$RESULTS/change.txt"
  table "$RESULTS/change.txt"
}

# Only what is in the code as it is now counts: lines move.
report() {
  (cd "$COPY" && cargo mutants --list --workspace --colors never) >"$ROOT/all.txt"
  cat "$RESULTS"/part-*.txt 2>/dev/null | grep -F -f "$ROOT/all.txt" >"$ROOT/report.txt" || true
  table "$ROOT/report.txt"
  say "$(wc -l <"$ROOT/report.txt") of $(wc -l <"$ROOT/all.txt") mutants were tried"
}

# table FILE: by module, how many there are and what finds them; then those that nothing finds.
table() {
  awk '
    {
      module = $2
      sub(/:.*/, "", module)
      if ($1 == "unviable") next
      all[module]++; number[module, $1]++; sum++; sums[$1]++
    }
    function line(name, all, units, worlds, missed) {
      return sprintf("%-50s %7d %6d %7d %7d  %5.1f %%", name, all, units, worlds, missed, 100 * (units + worlds) / all)
    }
    END {
      printf "%-50s %7s %6s %7s %7s  %7s\n", "module", "mutants", "units", "worlds", "missed", "found"
      for (module in all)
        print line(module, all[module], number[module, "units"], number[module, "worlds"], number[module, "missed"]) | "sort"
      close("sort")
      if (sum) print line("together", sum, sums["units"], sums["worlds"], sums["missed"])
    }' "$1"
  sed -n 's/^missed /not found: /p' "$1"
}

# beside COMMAND...: cargo mutants ends what it has started when it is told to end.
beside() {
  local parts result=0
  setsid nice -n 19 "$0" >>"$LOG" 2>&1 &
  parts=$!
  "$@" || result=$?
  kill -TERM -- "-$parts" 2>/dev/null || true
  wait "$parts" || true
  "$0" --report
  return "$result"
}

main() {
  mkdir -p "$RESULTS"
  if [ "${1:-}" = --beside ]; then
    shift
    beside "$@"
    return
  fi
  settings
  with_lock "$ROOT/lock"
  install_tool
  cd "$REPOSITORY"
  mirror "$COPY"
  case "${1:-}" in
    '') run_parts "$PARTS" ;;
    --parts) run_parts "$2" ;;
    --since) run_change "$2" ;;
    --report) report ;;
    *) die "$1 is no option" "see the head of $0" ;;
  esac
}

main "$@"
