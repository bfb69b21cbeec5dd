#!/usr/bin/env bash
# Role: a Kubernetes of one node on this machine, without Docker, for the tests
# and for trying things out; and bare control planes for tests that need no node.
# Invariants: all state is below one folder and is thrown away by "down"; a
# cluster is either running whole or made anew; "down" ends only processes that
# are recorded as started here and leaves the machine as it was.
#
# Usage: cluster.sh up | down | status | volumes
#        cluster.sh control-plane up DIR | control-plane down DIR
#
# "volumes" makes Released volumes available again, with empty folders.
# "control-plane up" prints the path of the kubeconfig as its only output.
set -euo pipefail
HERE="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=e2e/local/lib.sh
source "$HERE/lib.sh"
# shellcheck source=e2e/local/certificates.sh
source "$HERE/certificates.sh"
# shellcheck source=e2e/local/control-plane.sh
source "$HERE/control-plane.sh"
# shellcheck source=e2e/local/machine.sh
source "$HERE/machine.sh"
# shellcheck source=e2e/local/node.sh
source "$HERE/node.sh"
# shellcheck source=e2e/local/volumes.sh
source "$HERE/volumes.sh"

API_PORT=6443
ETCD_PORT=23790
ETCD_PEER_PORT=23800
# In the order in which they are stopped: first those that would react to the
# end of others.
PARTS=(kubelet kube-proxy kube-scheduler kube-controller-manager containerd kube-apiserver etcd)

all_alive() {
  local part
  for part in "${PARTS[@]}"; do process_alive "$CLUSTER_DIR/run" "$part" || return 1; done
}

is_up() { [ "$(cat "$CLUSTER_DIR/ready" 2>/dev/null)" = "$KUBERNETES_VERSION" ] && all_alive; }

check_before_start() {
  require_root
  [ -x "$BIN_DIR/kubelet" ] || die "there is no Kubernetes in $BIN_DIR" "run: make tools"
  # A socket's path must fit into 108 characters.
  [ "${#CONTAINERD_SOCKET}" -lt 90 ] || die "the path $CLUSTER_DIR is too long" "set PINKEEPER_CACHE to a shorter one"
  refuse_foreign_cluster
  local port
  for port in "$API_PORT" "$ETCD_PORT" "$ETCD_PEER_PORT" 10248 10249 10250 10256 10257 10259; do
    ! listening "$port" || die "another program listens on port $port" "ss -tlnp 'sport = :$port' names it"
  done
}

start_control_plane() {
  start_etcd "$CLUSTER_DIR" "$ETCD_PORT" "$ETCD_PEER_PORT"
  make_api_credentials "$CLUSTER_DIR" "$NODE_ADDRESS" "$API_PORT" "$SERVICE_ADDRESS"
  make_certificate "$CLUSTER_DIR/pki" apiserver-kubelet "/O=system:masters/CN=kube-apiserver-kubelet"
  start_api_server "$CLUSTER_DIR" "$NODE_ADDRESS" "$API_PORT" "$ETCD_PORT" "$SERVICE_RANGE" \
    --advertise-address "$NODE_ADDRESS" \
    --kubelet-certificate-authority "$CLUSTER_DIR/pki/ca.crt" \
    --kubelet-client-certificate "$CLUSTER_DIR/pki/apiserver-kubelet.crt" \
    --kubelet-client-key "$CLUSTER_DIR/pki/apiserver-kubelet.key" \
    --kubelet-preferred-address-types InternalIP
  wait_for "$CLUSTER_DIR" etcd 20 listening "$ETCD_PORT"
}

up() {
  local began=$SECONDS
  with_lock "$CACHE/cluster.lock"
  if is_up; then
    say "the local Kubernetes is already up: export KUBECONFIG=$CLUSTER_DIR/kubeconfig"
    return
  fi
  [ ! -e "$CLUSTER_DIR" ] || { say "removing what an earlier run has left"; take_down; }
  check_before_start
  mkdir -p "$CLUSTER_DIR/run" "$CLUSTER_DIR/logs" "$CLUSTER_DIR/volumes"
  chmod 700 "$CLUSTER_DIR"
  remember_machine
  say "[1/4] network, etcd, API server, containerd"
  make_network
  make_control_groups
  start_containerd
  start_control_plane
  wait_for "$CLUSTER_DIR" containerd 30 containerd_ready
  wait_for "$CLUSTER_DIR" kube-apiserver 60 api_server_ready "$CLUSTER_DIR"
  say "[2/4] images"
  "$HERE/images.sh" pause kubo
  say "[3/4] controllers, kubelet, kube-proxy"
  start_controllers
  start_kubelet
  start_proxy
  wait_for "$CLUSTER_DIR" kubelet 90 node_ready
  say "[4/4] volumes"
  make_storage_classes
  recycle_volumes
  wait_for "$CLUSTER_DIR" kube-controller-manager 30 kubectl_in "$CLUSTER_DIR" get serviceaccount default
  all_alive || die "a part has ended again: $(missing_parts)" "read the logs in $CLUSTER_DIR/logs"
  printf '%s\n' "$KUBERNETES_VERSION" >"$CLUSTER_DIR/ready"
  say "Kubernetes $KUBERNETES_VERSION is up after $((SECONDS - began)) s: export KUBECONFIG=$CLUSTER_DIR/kubeconfig"
}

missing_parts() {
  local part
  for part in "${PARTS[@]}"; do
    process_alive "$CLUSTER_DIR/run" "$part" || printf '%s ' "$part"
  done
}

take_down() {
  rm -f "$CLUSTER_DIR/ready"
  stop_all "$CLUSTER_DIR" kubelet kube-proxy kube-scheduler kube-controller-manager
  kill_pods
  stop_all "$CLUSTER_DIR" containerd kube-apiserver etcd
  remove_mounts
  remove_control_groups
  remove_network
  restore_machine
  # A mount that could not be removed must not lose its contents.
  rm -rf --one-file-system "$CLUSTER_DIR"
}

down() {
  require_root
  with_lock "$CACHE/cluster.lock"
  if [ ! -e "$CLUSTER_DIR" ]; then
    say "there is no local Kubernetes"
    return
  fi
  take_down
  say "the local Kubernetes is gone; its programs stay in $CACHE/bin"
}

status() {
  local part missing
  if [ ! -e "$CLUSTER_DIR" ]; then
    say "down (start it with: make cluster)"
    return 1
  fi
  missing="$(missing_parts)"
  for part in "${PARTS[@]}"; do
    if [[ " $missing" == *" $part "* ]]; then printf '%-24s not running\n' "$part"; else printf '%-24s running\n' "$part"; fi
  done
  printf 'kubeconfig %s\nlogs       %s\n' "$CLUSTER_DIR/kubeconfig" "$CLUSTER_DIR/logs"
  is_up && kubectl_in "$CLUSTER_DIR" get nodes,persistentvolumes
}

usage() {
  sed -n 's/^# \(Usage\|      \) */&/p' "${BASH_SOURCE[0]}" | sed 's/^# //' >&2
  exit 2
}

main() {
  case "${1:-} ${2:-}" in
    "up ") up ;;
    "down ") down ;;
    "status ") status ;;
    "volumes ") recycle_volumes ;;
    "control-plane up") private_up "${3:?a folder}" ;;
    "control-plane down") private_down "${3:?a folder}" ;;
    *) usage ;;
  esac
}

main "$@"
