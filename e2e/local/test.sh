#!/usr/bin/env bash
# Role: every check and test of the repository, one stage after the other.
# Invariants: a failing stage never hides the ones after it; a stage that fails
# without a countable result, a test program that dies, and an ignored test each
# count as failed; every stage has a time limit; what the tests start below
# their temporary folder is ended; the last line is "N passed, N failed".
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=e2e/local/lib.sh
source "$HERE/lib.sh"
cd "$REPOSITORY"

export CARGO_TERM_COLOR=never
# No test may find a cluster that it was not given.
unset KUBECONFIG
export PINKEEPER_BIN_DIR="$BIN_DIR" PINKEEPER_BINARY="$STATIC_BINARY"
export PINKEEPER_NEXT_BINARY="$CARGO_TARGET_DIR/next-level/pinkeeper"
PASSED=0
FAILED=0
FAILURES=()
STAGE_PID=
CLUSTER_STARTED=
LOG="$LOG_DIR/test-$(date +%Y%m%d-%H%M%S).log"
STAGE_LOG="$LOG.stage"

print() { printf '%s\n' "$*" | tee -a "$LOG"; }

# stream SECONDS COMMAND...: runs it with the output on the terminal and in the
# logs. The command is its own process group, so that the time limit and an
# interrupt reach what it has started.
stream() {
  local limit="$1" result=0
  shift
  : >"$STAGE_LOG"
  timeout --kill-after 20 "$limit" "$@" > >(tee "$STAGE_LOG" | tee -a "$LOG") 2>&1 9>&- &
  STAGE_PID=$!
  wait "$STAGE_PID" || result=$?
  STAGE_PID=
  wait
  [ "$result" -ne 124 ] || print "the time limit of $limit s is over"
  return "$result"
}

record() {
  local name="$1" passed="$2" failed="$3" began="$4"
  PASSED=$((PASSED + passed))
  FAILED=$((FAILED + failed))
  [ "$failed" -eq 0 ] || FAILURES+=("$name")
  print "=== $name: $passed passed, $failed failed, $((SECONDS - began)) s"
}

# check NAME SECONDS COMMAND...: counts as one test.
check() {
  local name="$1" began=$SECONDS
  shift
  print "" && print "=== $name"
  if stream "$@"; then record "$name" 1 0 "$began"; else record "$name" 0 1 "$began"; fi
}

# count_results: "passed failed" from cargo's output in the stage's log. A test
# program that was started and has no result line has died.
count_results() {
  awk '
    /^ +(Running|Doc-tests) / { died += pending; pending = 1 }
    /^test result: / {
      pending = 0
      for (i = 2; i <= NF; i++) {
        if ($i ~ /^passed/) passed += $(i - 1)
        if ($i ~ /^(failed|ignored)/) failed += $(i - 1)
      }
    }
    END { print passed + 0, failed + died + pending }
  ' "$STAGE_LOG"
}

# tests NAME SECONDS COMMAND...
tests() {
  local name="$1" began=$SECONDS result=0 passed failed
  shift
  print "" && print "=== $name"
  stream "$@" || result=$?
  read -r passed failed < <(count_results)
  if [ "$failed" -eq 0 ] && { [ "$result" -ne 0 ] || [ "$passed" -eq 0 ]; }; then
    print "$name: no failed test was counted, but the command did not succeed or ran nothing"
    failed=1
  fi
  grep -E '^test .* \.\.\. ignored' "$STAGE_LOG" | sed 's/^/counted as failed: /' | tee -a "$LOG" || true
  record "$name" "$passed" "$failed" "$began"
}

e2e() { tests "e2e: $1" "$2" cargo test -p pinkeeper-e2e --test "$1" --no-fail-fast; }

# The demo's peers would work on the Pins of the chart's tests too.
without_demo() {
  if [ -e "$CLUSTER_DIR/ready" ] && "$BIN_DIR/kubectl" --kubeconfig "$CLUSTER_DIR/kubeconfig" \
    get namespace pinkeeper-system >/dev/null 2>&1; then
    say "the demo is there; it is taken away for the chart's tests"
    "$HERE/demo.sh" down
  fi
}

# The chart's tests need a node; a cluster that was up before stays up.
chart() {
  without_demo
  [ -e "$CLUSTER_DIR/ready" ] || CLUSTER_STARTED=yes
  check "local Kubernetes" 300 "$HERE/cluster.sh" up
  check "images" 300 "$HERE/images.sh"
  KUBECONFIG="$CLUSTER_DIR/kubeconfig" e2e chart 1500
  stop_cluster
}

stop_cluster() {
  [ -n "$CLUSTER_STARTED" ] || return 0
  CLUSTER_STARTED=
  check "local Kubernetes taken down" 120 "$HERE/cluster.sh" down
}

end_to_end() {
  local file name
  ! grep -rqE '#\[(tokio::)?test\b' e2e/src \
    || tests "e2e: its own units" 600 cargo test -p pinkeeper-e2e --lib --bins --no-fail-fast
  for file in e2e/tests/*.rs; do
    [ -e "$file" ] || continue
    name="$(basename "$file" .rs)"
    if [ "$name" = chart ]; then chart; else e2e "$name" 1200; fi
  done
}

# A test that was killed cannot take down its own API server, nor unmount its volumes.
remove_leftovers() {
  local run volume
  while read -r volume; do
    fsfreeze --unfreeze "$volume" 2>/dev/null || true
    umount --lazy "$volume" || true
  done < <(awk -v folder="$TMPDIR/" 'index($2, folder) == 1 { print $2 }' /proc/mounts)
  for run in "$TMPDIR"/*/run/kube-apiserver.pid "$TMPDIR"/*/*/run/kube-apiserver.pid; do
    [ ! -e "$run" ] || "$HERE/cluster.sh" control-plane down "${run%/run/*}" || true
  done
  rm -rf "$TMPDIR"
}

finish() {
  trap - EXIT INT TERM
  [ -z "$STAGE_PID" ] || kill -TERM "$STAGE_PID" 2>/dev/null || true
  remove_leftovers
  [ -z "$CLUSTER_STARTED" ] || "$HERE/cluster.sh" down || true
  rm -f "$STAGE_LOG"
}

summary() {
  print ""
  print "took $((SECONDS / 60)) min $((SECONDS % 60)) s; the whole output: $LOG"
  local name
  for name in ${FAILURES[@]+"${FAILURES[@]}"}; do print "failed: $name"; done
  print "$PASSED passed, $FAILED failed"
  [ "$FAILED" -eq 0 ]
}

main() {
  mkdir -p "$LOG_DIR"
  # Short, because the paths of sockets below it are limited to 108 characters.
  TMPDIR="$(mktemp -d /tmp/pinkeeper-test.XXXXXX)"
  export TMPDIR
  trap finish EXIT
  trap 'exit 130' INT TERM
  check "tools" 2400 "$HERE/tools.sh"
  check "format" 120 cargo fmt --all --check -- --color never
  check "lints" 1800 cargo clippy --workspace --all-targets -- -D warnings
  tests "unit tests and worlds" 2400 cargo test --workspace --exclude pinkeeper-e2e --no-fail-fast
  check "binary of the next level" 1800 "$HERE/next-level.sh" "$PINKEEPER_NEXT_BINARY"
  check "static binary" 1800 cargo build --target "$RUST_TARGET" -p pinkeeper-operator --bin pinkeeper
  end_to_end
  local result=0
  finish >>"$LOG" 2>&1
  summary || result=1
  exit "$result"
}

main "$@"
