# Shared by the scripts of this folder; sourced, never run.
#
# Role: names of folders and versions, messages, waiting, and processes that
# outlive the script which started them.
# Invariants: a process is only ever signalled when its process ID, its start
# time and the boot it belongs to are the recorded ones, so a recycled ID never
# costs a stranger its life; nothing waits without a deadline.

# Debian's iptables, runc and conntrack are there; not every login has them.
export PATH="$PATH:/usr/sbin:/sbin"
LOCAL_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
REPOSITORY="$(cd "$LOCAL_DIR/../.." && pwd)"
CACHE="${PINKEEPER_CACHE:-$HOME/.cache/pinkeeper}"
BIN_DIR="$CACHE/bin/current"
CLUSTER_DIR="$CACHE/cluster"
IMAGES_DIR="$CACHE/images"
LOG_DIR="$CACHE/logs"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CACHE/target}"
RUST_TARGET=x86_64-unknown-linux-musl
STATIC_BINARY="$CARGO_TARGET_DIR/$RUST_TARGET/debug/pinkeeper"
RELEASE_BINARY="$CARGO_TARGET_DIR/$RUST_TARGET/release/pinkeeper"
BOOT_ID="$(cat /proc/sys/kernel/random/boot_id)"

say() { printf '%s\n' "$*" >&2; }

# die MESSAGE [NEXT-STEP]
die() {
  say "error: $1"
  [ $# -lt 2 ] || say "next: $2"
  exit 1
}

require_root() {
  [ "$(id -u)" -eq 0 ] || die "this needs root (network, mounts, control groups)" "run it as root"
}

# version_of MODULE-DIRECTORY MODULE: the version that the committed go.mod
# requires, without its "v", so that it is written down in one place only.
version_of() {
  awk -v module="$2" '$1 == "require" && $2 == module { sub(/^v/, "", $3); print $3 }' \
    "$LOCAL_DIR/go/$1/go.mod"
}

KUBERNETES_VERSION="$(version_of kubernetes k8s.io/kubernetes)"
KUBO_VERSION="$(version_of kubo github.com/ipfs/kubo)"
HELM_VERSION="$(version_of helm helm.sh/helm/v4)"
HELM3_VERSION="$(version_of helm3 helm.sh/helm/v3)"
# The tag of the image that the chart asks for where none is given.
CHART_VERSION="$(sed -n 's/^appVersion: //p' "$REPOSITORY/charts/pinkeeper/Chart.yaml")"
PAUSE_VERSION="$(cat "$LOCAL_DIR"/go/pause/* | sha256sum | cut -c1-12)"

# wait_until SECONDS COMMAND...: true as soon as the command succeeds.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# A recorded process is one file: process ID, start time in clock ticks, boot.

start_time_of() {
  local stat
  stat="$(cat "/proc/$1/stat" 2>/dev/null)" || return 1
  # The command name in the second field may hold blanks: cut through its ")".
  # shellcheck disable=SC2086
  set -- ${stat##*) }
  # A zombie is over, although its entry is still there.
  [ "$1" != Z ] || return 1
  printf '%s\n' "${20}"
}

# start_process RUN-DIR LOG-DIR NAME COMMAND...
start_process() {
  local run="$1" log="$2/$3.log" name="$3" pid
  shift 3
  # The lock and other inherited files must not stay open in a long-lived child.
  setsid nohup "$@" >>"$log" 2>&1 </dev/null 8>&- 9>&- &
  pid=$!
  printf '%s %s %s\n' "$pid" "$(start_time_of "$pid" || echo gone)" "$BOOT_ID" >"$run/$name.pid"
}

# process_alive RUN-DIR NAME
process_alive() {
  local pid started boot
  read -r pid started boot 2>/dev/null <"$1/$2.pid" || return 1
  [ "$boot" = "$BOOT_ID" ] && [ "$(start_time_of "$pid")" = "$started" ]
}

process_gone() { ! process_alive "$@"; }

# signal_process RUN-DIR NAME SIGNAL
signal_process() {
  local pid rest
  process_alive "$1" "$2" || return 0
  read -r pid rest <"$1/$2.pid"
  : "$rest"
  kill "-$3" "$pid" 2>/dev/null || true
}

# stop_process RUN-DIR NAME [GRACE-SECONDS]
stop_process() {
  signal_process "$1" "$2" TERM
  if ! wait_until "${3:-10}" process_gone "$1" "$2"; then
    signal_process "$1" "$2" KILL
    wait_until 10 process_gone "$1" "$2" || die "$2 does not end after SIGKILL"
  fi
  rm -f "$1/$2.pid"
}

# show_log LOG-FILE: its last lines, for a failure message.
show_log() {
  say "--- last lines of $1"
  tail -n 25 "$1" >&2 || true
  say "---"
}

# file_key FILE: changes whenever the file was written anew.
file_key() { stat -Lc '%s %Y %i' "$1"; }

# with_lock FILE: holds the lock (descriptor 9) until the script ends.
with_lock() {
  mkdir -p "$(dirname "$1")"
  exec 9>"$1"
  flock -n 9 && return
  say "another run holds $1; waiting for it (up to 30 minutes)"
  flock -w 1800 9 || die "$1 is still held" "look for a run of these scripts that hangs"
}

# mirror FOLDER: makes the folder the repository as it is here, without what git ignores; files that are
# equal keep their times, so that little is built anew.
mirror() {
  local copy="$1" file
  git -C "$REPOSITORY" ls-files -z --cached --others --exclude-standard \
    | tar -C "$REPOSITORY" --null --ignore-failed-read -T - -cf - 2>/dev/null \
    | (mkdir -p "$copy.new" && tar -xf - -C "$copy.new")
  mkdir -p "$copy"
  (cd "$copy.new" && find . -type f -print0) | while IFS= read -r -d '' file; do
    cmp -s "$copy.new/$file" "$copy/$file" \
      || { mkdir -p "$copy/$(dirname "$file")" && cp "$copy.new/$file" "$copy/$file"; }
  done
  (cd "$copy" && find . -type f -print0) | while IFS= read -r -d '' file; do
    [ -e "$copy.new/$file" ] || rm "$copy/$file"
  done
  rm -rf "$copy.new"
}
