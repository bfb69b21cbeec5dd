//go:build tools

// Package helm pins Helm in go.mod and go.sum; nothing here is compiled into a
// program.
package helm

import _ "helm.sh/helm/v4/cmd/helm"
