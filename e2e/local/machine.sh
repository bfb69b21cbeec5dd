# What the local node changes on the machine itself; sourced, never run.
#
# Role: the bridge, kernel settings, packet filter rules, control groups and
# folders outside the cluster's own, and their way back.
# Invariants: what a setting was before is written down before it is changed;
# pods reach each other and this machine, and nothing else: no packet leaves.

BRIDGE=pinkeeper0
NODE_ADDRESS=10.77.0.1
POD_RANGE=10.77.0.0/24
SERVICE_RANGE=10.78.0.0/24
SERVICE_ADDRESS=10.78.0.1
FILTER_CHAIN=PINKEEPER-LOCAL
CONTROL_GROUP=pinkeeper

# Settings that the bridge, kubelet and kube-proxy change.
SETTINGS=(
  net/ipv4/ip_forward net/bridge/bridge-nf-call-iptables
  vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes
  net/netfilter/nf_conntrack_tcp_timeout_established
  net/netfilter/nf_conntrack_tcp_timeout_close_wait
)

# Folders with fixed names that kubelet and containerd make.
FIXED_FOLDERS=(/var/lib/kubelet /var/log/containers /run/containerd /var/lib/cni /etc/cni)

remember_machine() {
  local setting folder
  mkdir -p "$CLUSTER_DIR/before"
  for setting in "${SETTINGS[@]}"; do
    [ ! -r "/proc/sys/$setting" ] || printf '%s %s\n' "$setting" "$(cat "/proc/sys/$setting")"
  done >"$CLUSTER_DIR/before/settings"
  for folder in "${FIXED_FOLDERS[@]}"; do
    [ -e "$folder" ] || printf '%s\n' "$folder"
  done >"$CLUSTER_DIR/before/absent-folders"
}

restore_machine() {
  local setting value folder
  [ -d "$CLUSTER_DIR/before" ] || return 0
  while read -r setting value; do
    [ "$(cat "/proc/sys/$setting")" = "$value" ] || printf '%s\n' "$value" >"/proc/sys/$setting" || true
  done <"$CLUSTER_DIR/before/settings"
  while read -r folder; do
    remove_fixed_folder "$folder"
  done <"$CLUSTER_DIR/before/absent-folders"
}

# Only what is known to be left behind goes; a folder that somebody else has put
# a file into stays.
remove_fixed_folder() {
  case "$1" in
    /var/lib/kubelet) rm -rf "$1/device-plugins" "$1/plugins" "$1/plugins_registry" ;;
    /var/log/containers) find "$1" -maxdepth 1 -type l -lname "$CLUSTER_DIR/*" -delete 2>/dev/null || true ;;
  esac
  [ ! -d "$1" ] || find "$1" -depth -type d -empty -delete
}

# A second kube-proxy would fight the first one over its chains.
refuse_foreign_cluster() {
  local chains
  chains="$(iptables-save 2>/dev/null || true)"
  ! grep -q '^:KUBE-' <<<"$chains" \
    || die "this machine already runs a kubelet or kube-proxy that is not ours" "take that cluster down first"
  [ ! -e "/sys/class/net/$BRIDGE" ] \
    || die "there is a network interface $BRIDGE that is not ours" "ip link delete $BRIDGE"
}

make_network() {
  [ -e /proc/sys/net/bridge ] || modprobe br_netfilter 2>/dev/null || true
  ip link add "$BRIDGE" type bridge
  ip address add "$NODE_ADDRESS/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  echo 1 >/proc/sys/net/ipv4/ip_forward
  # Lets a service's replies between two pods pass the address translation.
  [ ! -e /proc/sys/net/bridge ] || echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
  iptables -w 10 -N "$FILTER_CHAIN"
  iptables -w 10 -A "$FILTER_CHAIN" -i "$BRIDGE" -o "$BRIDGE" -j ACCEPT
  iptables -w 10 -A "$FILTER_CHAIN" -i "$BRIDGE" -j REJECT
  iptables -w 10 -A "$FILTER_CHAIN" -o "$BRIDGE" -j REJECT
  iptables -w 10 -I FORWARD -j "$FILTER_CHAIN"
}

# In this order: a chain can be deleted only when no rule points to it.
remove_network() {
  if iptables -w 10 -n -L "$FILTER_CHAIN" >/dev/null 2>&1; then
    while iptables -w 10 -D FORWARD -j "$FILTER_CHAIN" 2>/dev/null; do :; done
    iptables -w 10 -F "$FILTER_CHAIN"
    iptables -w 10 -X "$FILTER_CHAIN"
  fi
  [ ! -x "$BIN_DIR/kube-proxy" ] || "$BIN_DIR/kube-proxy" --cleanup >/dev/null 2>&1 || true
  remove_kubernetes_chains
  ip link delete "$BRIDGE" 2>/dev/null || true
}

# What "kube-proxy --cleanup" leaves: a chain that it shares with kubelet, and
# empty ones.
remove_kubernetes_chains() {
  local table chain command
  for command in iptables ip6tables; do
    for chain in INPUT OUTPUT; do
      while "$command" -w 10 -D "$chain" -j KUBE-FIREWALL 2>/dev/null; do :; done
    done
    "$command" -w 10 -F KUBE-FIREWALL 2>/dev/null || true
    for table in filter nat mangle; do
      "$command-save" -t "$table" 2>/dev/null | sed -n 's/^:\(KUBE-[A-Z-]*\) .*/\1/p' \
        | while read -r chain; do "$command" -w 10 -t "$table" -X "$chain" 2>/dev/null || true; done
    done
  done
}

# The folders of our control group: one per hierarchy in version 1, one in all
# in version 2, and both kinds where the machine mounts both.
control_group_folders() {
  awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts | sort -u | sed "s|\$|/$CONTROL_GROUP|"
}

make_control_groups() {
  local folder controller
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
      echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
    done
  fi
  control_group_folders | while read -r folder; do
    mkdir -p "$folder"
    # In version 1 a fresh cpuset is empty, and no process can enter it.
    [ ! -e "$folder/cpuset.cpus" ] || [ -e /sys/fs/cgroup/cgroup.controllers ] || {
      cat "${folder%/*}/cpuset.cpus" >"$folder/cpuset.cpus"
      cat "${folder%/*}/cpuset.mems" >"$folder/cpuset.mems"
    }
  done
}

# Everything in our control group was started by our containerd.
processes_in_pods() {
  control_group_folders | while read -r folder; do
    [ ! -d "$folder" ] || find "$folder" -name cgroup.procs -exec cat {} + 2>/dev/null
  done | sort -un
}

no_process_in_pods() { [ -z "$(processes_in_pods)" ]; }

# A shim names the socket of the containerd it serves, and that one is ours.
our_shims() {
  local file
  for file in /proc/[0-9]*/cmdline; do
    tr '\0' ' ' 2>/dev/null <"$file" | grep -q "^[^ ]*containerd-shim[^ ]* .*-address $CONTAINERD_SOCKET " \
      && basename "${file%/cmdline}"
  done
  return 0
}

no_shims() { [ -z "$(our_shims)" ]; }

# A killed pod cannot tell the network plugin, which keeps notes of each sandbox
# in a folder with a fixed name.
remove_network_notes() {
  local sandbox
  for sandbox in "$CLUSTER_DIR"/containerd/root/io.containerd.grpc.v1.cri/sandboxes/*; do
    rm -f /var/lib/cni/results/*-"$(basename "$sandbox")"-*
  done
}

kill_pods() {
  local address
  # shellcheck disable=SC2046
  no_process_in_pods || kill -KILL $(processes_in_pods) 2>/dev/null || true
  wait_until 15 no_process_in_pods || say "warning: some processes of pods do not end"
  # shellcheck disable=SC2046
  no_shims || kill -KILL $(our_shims) 2>/dev/null || true
  wait_until 15 no_shims || say "warning: some containerd shims do not end"
  find "$CLUSTER_DIR/containerd/state" -name address -type f 2>/dev/null | while read -r address; do
    rm -f "$(sed 's|^unix://||' "$address")"
  done
  remove_network_notes
}

remove_mounts() {
  local point
  # Deepest first; a mount point's blanks are written as \040.
  awk -v top="$CLUSTER_DIR/" 'index($5, top) == 1 { print $5 }' /proc/self/mountinfo | sort -r \
    | while read -r point; do umount -l "$(printf '%b' "${point//\\/\\0}")" 2>/dev/null || true; done
}

remove_control_groups() {
  control_group_folders | while read -r folder; do
    [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}
