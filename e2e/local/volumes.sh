# Local PersistentVolumes made beforehand; sourced, never run.
#
# Role: a default storage class and the folders behind its volumes. Their type is
# "local", because kubelet gives a pod's fsGroup to such volumes, and not to
# hostPath ones, and the daemons in the pods are not root.
# Invariants: only folders below the cluster's own are ever emptied, and only
# when their PersistentVolume is Released or gone.

VOLUME_COUNT=16

write_volume() {
  cat <<END
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: $1}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: pinkeeper-local
  local: {path: $CLUSTER_DIR/volumes/$1}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions:
        - {key: kubernetes.io/hostname, operator: In, values: [$NODE_NAME]}
END
}

volume_names() { seq -f 'pinkeeper-%02g' "$VOLUME_COUNT"; }

make_storage_class() {
  kubectl_in "$CLUSTER_DIR" apply -f - >/dev/null <<'END'
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: pinkeeper-local
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
END
}

# recycle_volumes: deletes the Released ones, empties their folders, and makes
# every one that is missing.
recycle_volumes() {
  local released present name
  released="$(kubectl_in "$CLUSTER_DIR" get persistentvolumes -o \
    'jsonpath={range .items[?(@.status.phase=="Released")]}{.metadata.name}{"\n"}{end}' | grep '^pinkeeper-' || true)"
  # shellcheck disable=SC2086
  [ -z "$released" ] || kubectl_in "$CLUSTER_DIR" delete persistentvolume --wait --timeout 30s $released >/dev/null
  present="$(kubectl_in "$CLUSTER_DIR" get persistentvolumes -o name)"
  for name in $(volume_names); do
    ! grep -qx "persistentvolume/$name" <<<"$present" || continue
    rm -rf "${CLUSTER_DIR:?}/volumes/$name"
    mkdir -p "$CLUSTER_DIR/volumes/$name"
    write_volume "$name"
  done | kubectl_in "$CLUSTER_DIR" apply -f - >/dev/null 2>&1 || all_volumes_present
}

# "apply" refuses an empty input, which is no error here.
all_volumes_present() {
  local name present
  present="$(kubectl_in "$CLUSTER_DIR" get persistentvolumes -o name)"
  for name in $(volume_names); do
    grep -qx "persistentvolume/$name" <<<"$present" || die "could not make the volume $name" "e2e/local/cluster.sh status"
  done
}
