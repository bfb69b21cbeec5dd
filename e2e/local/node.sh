# The parts of the local Kubernetes besides etcd and the API server; sourced,
# never run.
#
# Role: configuration and start of controller manager, scheduler, containerd,
# kubelet and kube-proxy.
# Invariants: each listens on loopback or the bridge only; all of their files
# are below the cluster's folder; an image that was not imported is an error at
# once, never a download.

NODE_NAME=pinkeeper-node
CONTAINERD_SOCKET="$CLUSTER_DIR/run/containerd.sock"
PAUSE_IMAGE="docker.io/pinkeeper/pause:$PAUSE_VERSION"

# client_kubeconfig NAME SUBJECT: prints the file's path.
client_kubeconfig() {
  make_certificate "$CLUSTER_DIR/pki" "$1" "$2"
  make_kubeconfig "$CLUSTER_DIR/pki" "$1" "https://$NODE_ADDRESS:$API_PORT" "$CLUSTER_DIR/pki/$1.kubeconfig"
  printf '%s\n' "$CLUSTER_DIR/pki/$1.kubeconfig"
}

start_part() { start_process "$CLUSTER_DIR/run" "$CLUSTER_DIR/logs" "$@"; }

start_controllers() {
  local kubeconfig
  kubeconfig="$(client_kubeconfig controller-manager /CN=system:kube-controller-manager)"
  start_part kube-controller-manager "$BIN_DIR/kube-controller-manager" \
    --kubeconfig "$kubeconfig" --bind-address 127.0.0.1 --leader-elect=false \
    --root-ca-file "$CLUSTER_DIR/pki/ca.crt" --use-service-account-credentials \
    --service-account-private-key-file "$CLUSTER_DIR/pki/service-accounts.key" \
    --pvclaimbinder-sync-period 2s --flex-volume-plugin-dir "$CLUSTER_DIR/kubelet/volume-plugins"
  kubeconfig="$(client_kubeconfig scheduler /CN=system:kube-scheduler)"
  start_part kube-scheduler "$BIN_DIR/kube-scheduler" \
    --kubeconfig "$kubeconfig" --bind-address 127.0.0.1 --leader-elect=false
}

write_containerd_config() {
  local base="$CLUSTER_DIR/containerd"
  mkdir -p "$base/hosts/_default" "$base/cni"
  # Nobody listens there. The "server" alone is ignored; it takes a host as well.
  printf 'server = "http://127.0.0.1:1"\n[host."http://127.0.0.1:1"]\ncapabilities = ["pull", "resolve"]\n' \
    >"$base/hosts/_default/hosts.toml"
  cat >"$base/config.toml" <<END
version = 2
root = "$base/root"
state = "$base/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "$CONTAINERD_SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$PAUSE_IMAGE"
# Without the right to lower the score, as in many virtual machines, runc fails.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "$base/state/runc"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$base/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "$base/hosts"
END
  cat >"$base/cni/10-pinkeeper.conflist" <<END
{"cniVersion": "0.4.0", "name": "pinkeeper", "plugins": [{
  "type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$base/addresses",
    "ranges": [[{"subnet": "$POD_RANGE"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
END
}

start_containerd() {
  write_containerd_config
  start_part containerd containerd --config "$CLUSTER_DIR/containerd/config.toml" --log-level warn
}

write_kubelet_config() {
  cat >"$CLUSTER_DIR/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_ADDRESS
healthzBindAddress: 127.0.0.1
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $CLUSTER_DIR/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $CLUSTER_DIR/pki/kubelet-server.crt
tlsPrivateKeyFile: $CLUSTER_DIR/pki/kubelet-server.key
containerRuntimeEndpoint: unix://$CONTAINERD_SOCKET
cgroupDriver: cgroupfs
cgroupRoot: /$CONTROL_GROUP
enforceNodeAllocatable: []
failSwapOn: false
failCgroupV1: false
makeIPTablesUtilChains: false
# No resolver answers there: a look-up fails at once.
clusterDNS: [127.0.0.1]
resolvConf: ""
podLogsDir: $CLUSTER_DIR/pod-logs
volumePluginDir: $CLUSTER_DIR/kubelet/volume-plugins
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%, imagefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 100
END
}

start_kubelet() {
  local kubeconfig
  make_certificate "$CLUSTER_DIR/pki" kubelet-server /CN=kubelet "IP:$NODE_ADDRESS"
  kubeconfig="$(client_kubeconfig kubelet "/O=system:nodes/CN=system:node:$NODE_NAME")"
  write_kubelet_config
  start_part kubelet "$BIN_DIR/kubelet" --config "$CLUSTER_DIR/kubelet.yaml" \
    --kubeconfig "$kubeconfig" --root-dir "$CLUSTER_DIR/kubelet" --cert-dir "$CLUSTER_DIR/pki" \
    --hostname-override "$NODE_NAME" --node-ip "$NODE_ADDRESS"
}

start_proxy() {
  local kubeconfig masquerade_all=true
  # Without the bridge filter, replies between two pods would bypass the
  # translation; then the sender's address is given up.
  [ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || masquerade_all=false
  kubeconfig="$(client_kubeconfig kube-proxy /CN=system:kube-proxy)"
  cat >"$CLUSTER_DIR/kube-proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
hostnameOverride: $NODE_NAME
clusterCIDR: $POD_RANGE
clientConnection: {kubeconfig: $kubeconfig}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
nodePortAddresses: [$POD_RANGE]
iptables: {localhostNodePorts: false, masqueradeAll: $masquerade_all}
conntrack: {maxPerCore: 0, min: 0}
END
  start_part kube-proxy "$BIN_DIR/kube-proxy" --config "$CLUSTER_DIR/kube-proxy.yaml"
}

containerd_ready() { ctr --address "$CONTAINERD_SOCKET" --connect-timeout 2s version; }

node_ready() {
  [ "$(kubectl_in "$CLUSTER_DIR" get node "$NODE_NAME" \
    -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]
}
