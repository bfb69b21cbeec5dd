# Local PersistentVolumes made beforehand; sourced, never run.
#
# Role: a default storage class, pinkeeper-local, another one, pinkeeper-small,
# for tests with a full disk, and the folders behind their volumes. Their type
# is "local", because kubelet gives a pod's fsGroup to such volumes, and not to
# hostPath ones, and the daemons in the pods are not root.
# Invariants: only folders below the cluster's own are ever emptied, and only
# when their PersistentVolume is Released or gone.

VOLUME_COUNT=16
SMALL_COUNT=4
SMALL_SIZE=64

# write_volume NAME: small ones are a file system of their own, so that they can
# be full while the disk is not.
write_volume() {
  local class=pinkeeper-local size=10Gi
  if is_small "$1"; then class=pinkeeper-small size="${SMALL_SIZE}Mi"; fi
  cat <<END
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: $1}
spec:
  capacity: {storage: $size}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: $class
  local: {path: $CLUSTER_DIR/volumes/$1}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions:
        - {key: kubernetes.io/hostname, operator: In, values: [$NODE_NAME]}
END
}

volume_names() {
  seq -f 'pinkeeper-%02g' "$VOLUME_COUNT"
  seq -f 'pinkeeper-small-%02g' "$SMALL_COUNT"
}

is_small() { [[ "$1" == pinkeeper-small-* ]]; }

# empty_folder NAME: also makes it.
empty_folder() {
  local folder="$CLUSTER_DIR/volumes/$1"
  mkdir -p "$folder"
  ! is_small "$1" || mountpoint -q "$folder" \
    || mount -t tmpfs -o "size=${SMALL_SIZE}m,mode=755" "$1" "$folder"
  find "$folder" -mindepth 1 -delete
  # A pod's group may own it by now.
  chown 0:0 "$folder"
  chmod u=rwx,go=rx,g-s "$folder"
}

make_storage_classes() {
  kubectl_in "$CLUSTER_DIR" apply -f - >/dev/null <<'END'
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: pinkeeper-local
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: pinkeeper-small}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
END
}

# delete_released: a Retain volume keeps the name of its old claim for ever.
delete_released() {
  local released
  mapfile -t released < <(kubectl_in "$CLUSTER_DIR" get persistentvolumes \
    -o 'jsonpath={range .items[?(@.status.phase=="Released")]}{.metadata.name}{"\n"}{end}' | grep '^pinkeeper-')
  [ "${#released[@]}" -eq 0 ] \
    || kubectl_in "$CLUSTER_DIR" delete persistentvolume --timeout 30s "${released[@]}" >/dev/null
}

# recycle_volumes: deletes the Released ones, and makes every one that is
# missing, with an empty folder.
recycle_volumes() {
  local present name missing=()
  delete_released
  present="$(kubectl_in "$CLUSTER_DIR" get persistentvolumes -o name)"
  for name in $(volume_names); do
    grep -qx "persistentvolume/$name" <<<"$present" || missing+=("$name")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  for name in "${missing[@]}"; do
    empty_folder "$name"
    write_volume "$name"
  done | kubectl_in "$CLUSTER_DIR" apply -f - >/dev/null
  say "made ${#missing[@]} volumes available"
}
