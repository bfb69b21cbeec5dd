//go:build tools

// Package kubernetes pins the programs of one Kubernetes release in go.mod and
// go.sum; nothing here is compiled into a program. The replace lines in go.mod
// stand for the staging directories that the k8s.io/kubernetes module replaces
// by local paths, which is why "go install module@version" refuses it.
package kubernetes

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
