#!/usr/bin/env bash
# Role: makes container images out of single static programs, with tar and
# sha256sum only, and imports them into the local cluster's containerd.
# Invariants: the same program gives the same image, byte for byte; an image is
# made again only when its program has changed, and imported only when the
# running cluster does not have that very file.
#
# Usage: images.sh [pause] [kubo] [pinkeeper] [release]
#   pinkeeper   of the quick build, for the demo and the tests; its tag is "dev"
#   release     of the optimised build, for people; its tag is the version
#   Without a name: pause, kubo and pinkeeper.
#        images.sh one REFERENCE BINARY PATH-IN-IMAGE USER
set -euo pipefail
# shellcheck source=e2e/local/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# pack FOLDER FILE: a tar that depends on the folder's contents only.
pack() {
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar -cf "$2" -C "$1" .
}

# write_config LAYER-DIGEST PATH USER
write_config() {
  printf '{"architecture":"amd64","os":"linux","config":{"User":"%s","Entrypoint":["%s"],' "$3" "$2"
  printf '"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},'
  printf '"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},' "$1"
  printf '"created":"1970-01-01T00:00:00Z","history":[{"created":"1970-01-01T00:00:00Z"}]}'
}

# make_image REFERENCE BINARY PATH USER ARCHIVE
make_image() {
  local reference="$1" binary="$2" path="$3" user="$4" archive="$5" work digest
  work="$(mktemp -d "$IMAGES_DIR/work.XXXXXX")"
  mkdir -p "$work/layer${path%/*}" "$work/image"
  # Debug information would make the image several times as large.
  strip --strip-debug -o "$work/layer$path" "$binary"
  find "$work/layer" -type d -exec chmod 755 {} +
  chmod 755 "$work/layer$path"
  pack "$work/layer" "$work/image/layer.tar"
  digest="$(sha256sum "$work/image/layer.tar" | cut -d' ' -f1)"
  write_config "$digest" "$path" "$user" >"$work/config.json"
  digest="$(sha256sum "$work/config.json" | cut -d' ' -f1)"
  mv "$work/config.json" "$work/image/$digest.json"
  printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$digest" "$reference" \
    >"$work/image/manifest.json"
  pack "$work/image" "$work/image.tar"
  mv "$work/image.tar" "$archive"
  rm -rf "$work"
}

# image REFERENCE BINARY PATH USER
image() {
  local reference="$1" binary="$2" path="$3" user="$4" archive key
  [ -x "$binary" ] || die "there is no program $binary for the image $reference" "run: make tools build"
  archive="$IMAGES_DIR/$(tr '/:' '__' <<<"$reference").tar"
  key="$(file_key "$binary") $path $user"
  if [ "$(cat "$archive.key" 2>/dev/null)" != "$key" ] || [ ! -e "$archive" ]; then
    make_image "$reference" "$binary" "$path" "$user" "$archive"
    printf '%s\n' "$key" >"$archive.key"
    say "made the image $reference"
  fi
  import_image "$reference" "$archive"
}

import_image() {
  local reference="$1" archive="$2" socket="$CLUSTER_DIR/run/containerd.sock" stamp
  process_alive "$CLUSTER_DIR/run" containerd || return 0
  stamp="$CLUSTER_DIR/imported/$(basename "$archive")"
  [ "$(cat "$stamp" 2>/dev/null)" != "$(file_key "$archive")" ] || return 0
  mkdir -p "$CLUSTER_DIR/imported"
  ctr --address "$socket" -n k8s.io images import "$archive" >/dev/null
  file_key "$archive" >"$stamp"
  say "imported the image $reference"
}

known_image() {
  case "$1" in
    pause) image "docker.io/pinkeeper/pause:$PAUSE_VERSION" "$BIN_DIR/pause" /pause 65535:65535 ;;
    kubo) image "docker.io/ipfs/kubo:v$KUBO_VERSION" "$BIN_DIR/ipfs" /usr/local/bin/ipfs 65532:65532 ;;
    pinkeeper) image docker.io/pinkeeper/pinkeeper:dev "$STATIC_BINARY" /pinkeeper 65532:65532 ;;
    release)
      image "docker.io/pinkeeper/pinkeeper:$CHART_VERSION" "$RELEASE_BINARY" /pinkeeper 65532:65532
      say "to upload: $IMAGES_DIR/docker.io_pinkeeper_pinkeeper_$CHART_VERSION.tar"
      ;;
    *) die "there is no image called $1" "the names are: pause kubo pinkeeper release" ;;
  esac
}

main() {
  with_lock "$CACHE/images.lock"
  mkdir -p "$IMAGES_DIR"
  if [ "${1:-}" = one ]; then
    image "${2:?reference}" "${3:?binary}" "${4:?path}" "${5:?user}"
    return
  fi
  [ $# -gt 0 ] || set -- pause kubo pinkeeper
  local name
  for name in "$@"; do known_image "$name"; done
}

main "$@"
