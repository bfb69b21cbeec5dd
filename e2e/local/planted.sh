#!/usr/bin/env bash
# Proves that the simulated worlds bite: plants each defect of e2e/planted/ into a copy of the
# repository. There a world must fail that does not fail without the defect. The column "units" says
# whether unit tests find the defect, too. The last line says how many were found by worlds.
#
#   e2e/local/planted.sh [NAME…]      only these, without .patch
#
# A patch begins with what the defect is. Lines of these forms may follow:
#   Worlds: pods      the worlds that find it (default: peers)
#   Seed: N           the seed that found it before; it is tried first, then all others
set -euo pipefail
# shellcheck source=e2e/local/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$REPOSITORY"
copy=$CACHE/planted
logs=$LOG_DIR/planted
programs=$CACHE/planted-programs
# Seeds that a defect has to be found within.
declare -A seeds=([peers]=400 [pods]=200)

names=("$@")
if [ ${#names[@]} = 0 ]; then
  for patch in e2e/planted/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
rm -rf "$programs"
mkdir -p "$copy" "$logs" "$programs"
# Builds of the copy go to a folder of their own, which begins with the dependencies as they are built
# already, and stays: the next run is incremental.
target=$CACHE/target-planted
built=$CARGO_TARGET_DIR/$RUST_TARGET/debug
if [ ! -e "$target" ] && [ -e "$built/deps" ]; then
  mkdir -p "$target/$RUST_TARGET"
  cp -a --reflink=auto "$built" "$target/$RUST_TARGET/debug"
  [ ! -e "$built/../../debug" ] || cp -a --reflink=auto "$built/../../debug" "$target/debug"
fi
export CARGO_TARGET_DIR=$target CARGO_TERM_COLOR=never RUST_BACKTRACE=0

# header NAME KEY DEFAULT: what a patch's header says.
header() { sed -n "s/^$2: //p;/^diff /q" "$REPOSITORY/e2e/planted/$1.patch" | head -n 1 | grep . || echo "$3"; }

# build WORLDS FOLDER: builds the copy's tests, as few as these worlds need, and puts the programs there.
build() {
  local packages=(-p pinkeeper --lib) output program path
  [ "$1" = peers ] || packages=(--workspace --exclude pinkeeper-e2e --lib --test worlds)
  output=$(cd "$copy" && cargo test "${packages[@]}" --no-run 2>&1) || { echo "$output"; return 1; }
  mkdir -p "$2"
  for program in pinkeeper pinkeeper_operator worlds; do
    path=$(grep -oE "[^( ]*/deps/$program-[0-9a-f]+" <<< "$output") || continue
    cp "$path" "$2/$program"
  done
}

# units FOLDER: runs the unit tests of what was built. Those of inputs are searches too, and judge a
# daemon's answers as the worlds do.
units() {
  (cd "$copy" && timeout 600 "$1/pinkeeper" --skip sim:: --skip fuzzing::) || return 1
  [ ! -e "$1/pinkeeper_operator" ] || (cd "$copy/operator" && "$1/pinkeeper_operator")
}

# worlds WORLDS FOLDER FROM SEEDS: runs worlds until one fails; not for ever, should time stand still in one.
worlds() {
  export PINKEEPER_SIM_FROM=$3 PINKEEPER_SIM_SEEDS=$4
  if [ "$1" = peers ]; then
    cd "$copy" && timeout 900 "$2/pinkeeper" --exact \
      sim::tests::in_every_world_acknowledged_writes_take_effect_and_answers_are_true
  else
    cd "$copy/operator" && timeout 900 "$2/worlds" --exact \
      in_every_world_of_pods_pins_are_kept_and_nothing_false_is_written
  fi
}

# try NAME LOG: plants a defect and says what became of it: whether unit tests find it, then the worlds.
try() {
  local name=$1 log=$2 kind known found= units=-
  kind=$(header "$name" Worlds peers)
  known=$(header "$name" Seed '')
  mirror "$copy"
  (cd "$copy" && patch -p1 -f --no-backup-if-mismatch < "$REPOSITORY/e2e/planted/$name.patch") >> "$log" 2>&1 ||
    { echo '- DOES NOT APPLY'; return; }
  build "$kind" "$programs/planted-$kind" >> "$log" 2>&1 || { echo '- DOES NOT BUILD'; return; }
  units "$programs/planted-$kind" >> "$log" 2>&1 || units=found
  # Whether worlds of these seeds find it.
  finds() {
    (worlds "$kind" "$programs/planted-$kind" "$1" "$2") > "$log.world" 2>&1 && return 1
    cat "$log.world" >> "$log"
    found=$(sed -nE 's/^seed ([0-9]+): .*/\1/p' "$log.world" | head -n 1)
  }
  { [ -n "$known" ] && finds "$known" 1; } || finds 0 "${seeds[$kind]}" ||
    { echo "$units NOT FOUND in ${seeds[$kind]} worlds of $kind"; return; }
  [ -n "$found" ] || { echo "$units WORLDS DID NOT RUN"; return; }
  (worlds "$kind" "$programs/sound-$kind" "$found" 1) >> "$log" 2>&1 ||
    { echo "$units SEED $found FAILS WITHOUT IT"; return; }
  echo "$units found by seed $found of $kind"
}

mirror "$copy"
for kind in $(for name in "${names[@]}"; do header "$name" Worlds peers; done | sort -u); do
  build "$kind" "$programs/sound-$kind"
done
printf '%-34s %-6s %-34s %8s\n' defect units worlds seconds
found=0
for name in "${names[@]}"; do
  log=$logs/$name.log
  : > "$log"
  began=$SECONDS
  read -r units result < <(try "$name" "$log")
  rm -f "$log.world"
  case $result in found*) found=$((found + 1)) ;; *) result="$result (see $log)" ;; esac
  printf '%-34s %-6s %-34s %8s\n' "$name" "$units" "$result" $((SECONDS - began))
done
mirror "$copy"
rm -rf "$programs"
echo "$found found, $((${#names[@]} - found)) not found"
[ "$found" = ${#names[@]} ]
