#!/usr/bin/env bash
# Role: makes everything that the builds, the tests and the local Kubernetes
# need on a fresh Debian 12 with rustup, Go, make and root.
# Invariants: versions come from the committed go.mod files; a program is built
# under a temporary name and renamed, so a name in the cache is always whole;
# a warm run changes nothing and takes no noticeable time; no service of a
# Debian package is started.
#
# Usage: tools.sh          everything
#        tools.sh build    only what building pinkeeper itself needs
set -euo pipefail
# shellcheck source=e2e/local/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PACKAGES=(
  etcd-server containerd runc containernetworking-plugins
  iptables conntrack iproute2 openssl curl gcc musl-tools
)

step=0
STEPS=12

headline() {
  step=$((step + 1))
  say "[$step/$STEPS] $*"
}

# A warm run is the usual one, and has nothing to tell.
present() { step=$((step + 1)); }

missing_packages() {
  local package
  for package in "${PACKAGES[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] \
      || printf '%s\n' "$package"
  done
}

# Debian starts the services of a package it installs, unless this policy file
# forbids it: their etcd and containerd would only be in the way of ours.
forbid_service_starts() {
  [ ! -e /usr/sbin/policy-rc.d ] || return 0
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  if [ "${#missing[@]}" -eq 0 ]; then
    present
    return
  fi
  headline "installing Debian packages: ${missing[*]}"
  require_root
  forbid_service_starts
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# The folders that rustup fills are looked at directly: asking rustup takes a
# second, which every warm run would pay.
install_rust_parts() {
  local sysroot
  sysroot="$(rustc --print sysroot)" || die "no Rust compiler" "install rustup, then run this again"
  if [ -d "$sysroot/lib/rustlib/$RUST_TARGET/lib" ] && [ -x "$sysroot/bin/cargo-fmt" ] \
    && [ -x "$sysroot/bin/cargo-clippy" ]; then
    present
    return
  fi
  headline "adding the Rust target $RUST_TARGET, rustfmt, clippy"
  rustup target add "$RUST_TARGET"
  rustup component add rustfmt clippy
}

# build_go NAME VERSION MODULE-DIRECTORY PACKAGE LINKER-FLAGS ESTIMATE
build_go() {
  local name="$1" version="$2" module="$3" package="$4" flags="$5" estimate="$6"
  local target="$CACHE/bin/$name-$version" began=$SECONDS
  if [ -x "$target" ]; then
    present
  else
    headline "building $name $version ($estimate on two cores)…"
    command -v go >/dev/null || die "no Go compiler" "install Go, then run this again"
    (cd "$LOCAL_DIR/go/$module" && CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off nice -n 5 \
      go build -trimpath -ldflags "-s -w $flags" -o "$target.partial" "$package")
    mv "$target.partial" "$target"
    say "      took $((SECONDS - began)) s"
  fi
  [ "$(readlink "$BIN_DIR/$name")" = "../$name-$version" ] \
    || ln -sfn "../$name-$version" "$BIN_DIR/$name"
}

build_kubernetes() {
  local component="k8s.io/component-base/version" version="$KUBERNETES_VERSION" flags
  # Without these the programs say v0.0.0, and Helm refuses charts that ask for
  # a minimum version.
  flags="-X $component.gitVersion=v$version -X $component.gitMajor=${version%%.*}"
  flags+=" -X $component.gitMinor=$(cut -d. -f2 <<<"$version")"
  build_one() { build_go "$1" "$version" kubernetes "k8s.io/kubernetes/cmd/$1" "$flags" "$2"; }
  build_one kube-apiserver "about 3 minutes"
  build_one kube-controller-manager "about 1 minute"
  build_one kube-scheduler "about 10 seconds"
  build_one kubelet "about 20 seconds"
  build_one kube-proxy "about 10 seconds"
  build_one kubectl "about 20 seconds"
}

# Helm 4, and Helm 3 as "helm3": the chart works with both.
build_helm() {
  local minor flags version="-X helm.sh/helm"
  build_go helm "$HELM_VERSION" helm helm.sh/helm/v4/cmd/helm \
    "$version/v4/internal/version.version=v$HELM_VERSION" "about 1 minute"
  # What Helm 3 takes for the cluster's version where there is none, as in
  # "helm template".
  minor="$(cut -d. -f2 <<<"$KUBERNETES_VERSION")"
  flags="$version/v3/internal/version.version=v$HELM3_VERSION"
  flags+=" -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=${KUBERNETES_VERSION%%.*}"
  flags+=" -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$minor"
  build_go helm3 "$HELM3_VERSION" helm3 helm.sh/helm/v3/cmd/helm "$flags" "about 1 minute"
}

main() {
  with_lock "$CACHE/tools.lock"
  mkdir -p "$BIN_DIR"
  if [ "${1:-all}" = build ]; then STEPS=2; fi
  install_packages
  install_rust_parts
  [ "$STEPS" -gt 2 ] || return 0
  build_kubernetes
  build_helm
  build_go ipfs "$KUBO_VERSION" kubo github.com/ipfs/kubo/cmd/ipfs "" "about 2 minutes"
  build_go pause "$PAUSE_VERSION" pause . "" "a few seconds"
  say "the programs are in $BIN_DIR"
}

main "$@"
