//go:build tools

// Package helm3 pins Helm 3, which the chart supports beside Helm 4, in go.mod and go.sum; nothing here is compiled into a
// program.
package helm3

import _ "helm.sh/helm/v3/cmd/helm"
