# etcd and kube-apiserver in one folder; sourced, never run.
#
# Role: the part that the local cluster and a test's private API server share.
# Invariants: etcd and the private API server listen on loopback only; nothing
# is kept over a restart, so etcd need not wait for the disk; a control plane is
# either running whole or made anew.
#
# A control plane's folder: kubeconfig (administrator), audit.log, logs/, run/
# (process records), pki/, etcd/.

kubectl_in() {
  local dir="$1"
  shift
  "$BIN_DIR/kubectl" --kubeconfig "$dir/kubeconfig" "$@"
}

# start_etcd DIR CLIENT-PORT PEER-PORT
start_etcd() {
  start_process "$1/run" "$1/logs" etcd etcd --name local --data-dir "$1/etcd" \
    --listen-client-urls "http://127.0.0.1:$2" --advertise-client-urls "http://127.0.0.1:$2" \
    --listen-peer-urls "http://127.0.0.1:$3" --initial-advertise-peer-urls "http://127.0.0.1:$3" \
    --initial-cluster "local=http://127.0.0.1:$3" --quota-backend-bytes 8589934592 \
    --auto-compaction-retention 0 --unsafe-no-fsync --log-level warn
}

# listening PORT
listening() { ss -Htln "sport = :$1" | grep -q .; }

# The requests of Kubernetes' own parts are left out: what remains is what the
# tests count.
write_audit_policy() {
  cat >"$1/audit-policy.yaml" <<'END'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  userGroups: ["system:nodes", "system:serviceaccounts:kube-system"]
- level: None
  users:
  - system:apiserver
  - system:kube-controller-manager
  - system:kube-scheduler
  - system:kube-proxy
- level: Metadata
END
}

# make_api_credentials DIR ADDRESS PORT SERVICE-ADDRESS
make_api_credentials() {
  local pki="$1/pki" names="IP:127.0.0.1,IP:$2,IP:$4,DNS:localhost,DNS:kubernetes"
  names+=",DNS:kubernetes.default,DNS:kubernetes.default.svc"
  make_authority "$pki"
  make_certificate "$pki" apiserver "/CN=kube-apiserver" "$names"
  make_certificate "$pki" admin "/O=system:masters/CN=pinkeeper-admin"
  make_kubeconfig "$pki" admin "https://$2:$3" "$1/kubeconfig"
}

# start_api_server DIR ADDRESS PORT ETCD-PORT SERVICE-RANGE EXTRA-FLAGS...
start_api_server() {
  local dir="$1" address="$2" port="$3" etcd_port="$4" services="$5" pki="$1/pki"
  shift 5
  write_audit_policy "$dir"
  start_process "$dir/run" "$dir/logs" kube-apiserver "$BIN_DIR/kube-apiserver" \
    --bind-address "$address" --secure-port "$port" \
    --etcd-servers "http://127.0.0.1:$etcd_port" --service-cluster-ip-range "$services" \
    --client-ca-file "$pki/ca.crt" \
    --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" \
    --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file "$pki/service-accounts.pub" \
    --service-account-signing-key-file "$pki/service-accounts.key" \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --allow-privileged --profiling=false \
    --audit-policy-file "$dir/audit-policy.yaml" --audit-log-path "$dir/audit.log" \
    --audit-log-maxsize 500 --audit-log-maxbackup 2 "$@"
}

api_server_ready() {
  kubectl_in "$1" get --raw /readyz --request-timeout 5s && kubectl_in "$1" get namespace default
}

# wait_for DIR PROCESS SECONDS COMMAND...: waits for the command, but no longer
# than the process lives; shows the process's log when that was in vain.
wait_for() {
  local dir="$1" name="$2" seconds="$3"
  shift 3
  settled() { process_gone "$dir/run" "$name" || "$@"; }
  if wait_until "$seconds" settled "$@" && process_alive "$dir/run" "$name"; then
    return
  fi
  show_log "$dir/logs/$name.log"
  process_alive "$dir/run" "$name" || die "$name has ended" "read $dir/logs/$name.log"
  die "$name is not ready after $seconds s" "read $dir/logs/$name.log"
}

# stop_all DIR NAME...: all are told at once; the state is thrown away, so
# nobody gets long to tidy up.
stop_all() {
  local dir="$1" name
  shift
  for name in "$@"; do signal_process "$dir/run" "$name" TERM; done
  for name in "$@"; do stop_process "$dir/run" "$name" 5; done
}

# take_ports COUNT: ports that nobody listens on, below the range that outgoing
# connections use. A counter keeps callers apart that start at the same moment.
take_ports() {
  local wanted="$1" file="$CACHE/next-port" port
  mkdir -p "$CACHE"
  exec 8>"$file.lock"
  flock 8
  port="$(cat "$file" 2>/dev/null || echo 20000)"
  while [ "$wanted" -gt 0 ]; do
    port=$((port >= 29999 ? 20000 : port + 1))
    ! listening "$port" || continue
    printf '%s\n' "$port"
    wanted=$((wanted - 1))
  done
  printf '%s\n' "$port" >"$file"
  exec 8>&-
}

# private_up DIR: an API server of a test's own, without a node: objects are
# stored, admitted and watched, but no controller acts on them (a namespace that
# is deleted stays Terminating). Prints the path of its kubeconfig.
private_up() {
  local dir ports
  dir="$(mkdir -p "$1" && cd "$1" && pwd)"
  if process_alive "$dir/run" etcd && process_alive "$dir/run" kube-apiserver \
    && api_server_ready "$dir" >/dev/null 2>&1; then
    say "the control plane in $dir is already up"
    printf '%s\n' "$dir/kubeconfig"
    return
  fi
  private_down "$dir"
  [ -x "$BIN_DIR/kube-apiserver" ] || die "there is no kube-apiserver in $BIN_DIR" "run: make tools"
  mkdir -p "$dir/run" "$dir/logs"
  mapfile -t ports < <(take_ports 3)
  start_etcd "$dir" "${ports[0]}" "${ports[1]}"
  make_api_credentials "$dir" 127.0.0.1 "${ports[2]}" 10.79.0.1
  # Loopback is refused as the address to advertise; nobody uses this one.
  start_api_server "$dir" 127.0.0.1 "${ports[2]}" "${ports[0]}" 10.79.0.0/24 \
    --advertise-address 192.0.2.1 --endpoint-reconciler-type none
  wait_for "$dir" etcd 20 listening "${ports[0]}"
  wait_for "$dir" kube-apiserver 60 api_server_ready "$dir"
  printf '%s\n' "$dir/kubeconfig"
}

private_down() {
  local dir="$1"
  [ -d "$dir/run" ] || return 0
  stop_all "$dir" kube-apiserver etcd
  rm -rf "$dir/run" "$dir/logs" "$dir/pki" "$dir/etcd" "$dir/kubeconfig" \
    "$dir/audit-policy.yaml" "$dir"/audit*.log
  rmdir "$dir" 2>/dev/null || true
}
