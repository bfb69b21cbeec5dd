#!/usr/bin/env bash
# Role: shows the main job on real parts: the chart on the local Kubernetes, a
# folder added to one daemon, a Pin of it on two, a file read from the daemon
# that did not have it, and content that exists nowhere.
# Invariants: it can be run again at any time; what it made, "down" removes;
# it ends with an error when a thing it shows is not so.
#
# Usage: demo.sh up|down
set -euo pipefail
# What it does is told here, also where a command's own words go to a file.
exec 3>&2
# shellcheck source=e2e/local/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export KUBECONFIG="$CLUSTER_DIR/kubeconfig"
export PATH="$BIN_DIR:$PATH"

NAMESPACE=pinkeeper-system
RELEASE=pinkeeper
STEPS=8
STEP=0
# Some hundred files, several megabytes, on every machine that can run this.
FOLDERS=(/usr/share/doc/git /usr/share/doc/libc6 /usr/share/doc/make /usr/share/doc/bash /usr/share/perl)
NOWHERE=bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi

step() {
  STEP=$((STEP + 1))
  say
  say "[$STEP/$STEPS, after ${SECONDS} s] $*"
}

# show COMMAND...: says what it runs, as a person would type it.
show() {
  printf '    $ %s\n' "$*" >&3
  "$@"
}

# The daemon's RPC is for its own pod alone; a port-forward is the way in. Its
# local port is free by choice of kubectl.
FORWARD_PID=
open_daemon() {
  local log="$WORK/forward.log"
  : >"$log"
  kubectl -n "$NAMESPACE" port-forward "$1" :5001 >"$log" 2>&1 &
  FORWARD_PID=$!
  wait_until 20 grep -q 'Forwarding from 127' "$log" ||
    die "no way to the daemon of $1: $(cat "$log")" "look at: kubectl -n $NAMESPACE get pods"
  API="/ip4/127.0.0.1/tcp/$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\).*/\1/p' "$log")"
}

close_daemon() {
  [ -z "$FORWARD_PID" ] || { kill "$FORWARD_PID" 2>/dev/null; wait "$FORWARD_PID" 2>/dev/null; } || true
  FORWARD_PID=
}

install_release() {
  # The tag stays the same from build to build; other pods for another program need another template.
  local program
  program="$(sha256sum "$STATIC_BINARY" | cut -c1-16)"
  kubectl create namespace "$NAMESPACE" --dry-run=client -o yaml |
    kubectl label --local -f - -o yaml pod-security.kubernetes.io/enforce=restricted |
    kubectl apply -f - >/dev/null
  show helm upgrade --install "$RELEASE" "$REPOSITORY/charts/pinkeeper" -n "$NAMESPACE" \
    -f "$LOCAL_DIR/values.yaml" --set-string "podAnnotations.program=$program" --wait --timeout 3m \
    >"$WORK/helm.log" 2>&1 || {
    cat "$WORK/helm.log" >&2
    die "the chart was not installed" "kubectl -n $NAMESPACE get pods,events"
  }
  kubectl -n "$NAMESPACE" wait --for=condition=Ready clusterpeers --all --timeout=60s >/dev/null ||
    die "the peers are not Ready" "kubectl -n $NAMESPACE describe clusterpeers"
  kubectl -n "$NAMESPACE" get pods,clusterpeers >&2
}

add_folder() {
  local folder
  mkdir "$WORK/folder"
  for folder in "${FOLDERS[@]}"; do
    if [ -d "$folder" ]; then cp -rL "$folder" "$WORK/folder/" 2>/dev/null || true; fi
  done
  # New each time, so that no daemon can have it from an earlier run.
  head -c 100000 /dev/urandom | base64 >"$WORK/folder/new.txt"
  say "    $(find "$WORK/folder" -type f | wc -l) files, $(du -sh "$WORK/folder" | cut -f1), to the daemon of $RELEASE-0"
  open_daemon "$RELEASE-0"
  CID="$(ipfs --api "$API" add --recursive --quieter --cid-version 1 --pin=false "$WORK/folder")"
  close_daemon
  say "    CID $CID"
}

apply_pin() {
  # The sample with the CID of that folder in it.
  sed "s/^  cid: .*/  cid: $CID/" "$REPOSITORY/manifests/samples/pin.yaml" >"$WORK/pin.yaml"
  kubectl delete pin docs --ignore-not-found >/dev/null
  sed 's/^/    | /' "$WORK/pin.yaml" >&2
  show kubectl apply -f "$WORK/pin.yaml" >&2
  show kubectl wait --for=condition=Ready pin/docs --timeout=120s >&2 ||
    die "the Pin did not become Ready" "kubectl describe pin docs"
}

show_pin() {
  show kubectl get pins,clusterpeers -A -o wide >&2
  say "    \$ kubectl get pin docs -o yaml      # its status"
  kubectl get pin docs -o yaml | sed -n '/^status:/,$p' | sed 's/^/    /' >&2
}

read_elsewhere() {
  local holder file=new.txt
  holder="$(kubectl get pin docs -o jsonpath='{.status.allocations[*].peer}' | tr ' ' '\n' |
    grep -v "^$RELEASE-0$" | head -n 1)"
  [ -n "$holder" ] || die "the Pin is on no other daemon than the first" "kubectl describe pin docs"
  open_daemon "$holder"
  # Offline: what the daemon does not have, it may not fetch now.
  ipfs --api "$API" cat --offline "/ipfs/$CID/$file" >"$WORK/copy" ||
    die "the daemon of $holder does not have $file" "kubectl describe pin docs"
  close_daemon
  cmp "$WORK/folder/$file" "$WORK/copy" || die "$file is not the same at $holder"
  say "    $file: $(stat -c %s "$WORK/copy") bytes at $holder, the same byte for byte"
}

show_missing() {
  kubectl delete pin nowhere --ignore-not-found >/dev/null
  kubectl apply -f - >&2 <<END
apiVersion: pinkeeper.dev/v1alpha1
kind: Pin
metadata: {name: nowhere}
spec: {cid: $NOWHERE, replicas: 1}
END
  show kubectl wait pin/nowhere --timeout=120s \
    --for=jsonpath='{.status.conditions[?(@.type=="Ready")].reason}'=ContentNotFound >&2 ||
    die "nobody said that the content is missing" "kubectl describe pin nowhere"
  show kubectl get pins -o wide >&2
  wait_until 30 has_event || die "there is no Event about it" "kubectl get events"
  show kubectl get events --field-selector involvedObject.name=nowhere >&2
}

has_event() { kubectl get events --field-selector involvedObject.name=nowhere -o name | grep -q .; }

next_steps() {
  say
  say "It works, after ${SECONDS} s. To go on:"
  say "    export KUBECONFIG=$KUBECONFIG PATH=$BIN_DIR:\$PATH"
  say "    kubectl describe pin docs                      # what is where, and why"
  say "    kubectl scale pin docs --replicas=3            # one more copy"
  say "    kubectl -n $NAMESPACE delete pod $RELEASE-0    # nothing is lost"
  say "    kubectl delete pin docs                        # unpinned everywhere"
  say "    make demo-down                                 # removes all this"
}

up() {
  require_root
  WORK="$(mktemp -d)"
  trap 'close_daemon; rm -rf "$WORK"' EXIT
  step "Kubernetes on this machine"
  "$LOCAL_DIR/cluster.sh" up
  "$LOCAL_DIR/images.sh"
  step "the chart: three peers, each with a daemon; waits until they are Ready"
  install_release
  step "a folder is added to one daemon, by port-forward"
  add_folder
  step "a Pin asks for it on two daemons"
  apply_pin
  step "what people see"
  show_pin
  step "a file of it is read from a daemon that did not have it"
  read_elsewhere
  step "a Pin of content that exists nowhere says so"
  show_missing
  step "done"
  next_steps
}

down() {
  require_root
  if [ -e "$KUBECONFIG" ] && kubectl get --raw /readyz >/dev/null 2>&1; then
    say "removing the Pins, the release and its volumes"
    kubectl delete pins --all --all-namespaces --ignore-not-found --timeout=30s >/dev/null 2>&1 || true
    helm uninstall "$RELEASE" -n "$NAMESPACE" --wait --timeout 90s >/dev/null 2>&1 || true
    kubectl delete namespace "$NAMESPACE" --ignore-not-found --timeout=60s >/dev/null || true
  fi
  "$LOCAL_DIR/cluster.sh" down
}

case "${1:-}" in
  up) up ;;
  down) down ;;
  *) die "usage: demo.sh up|down" ;;
esac
