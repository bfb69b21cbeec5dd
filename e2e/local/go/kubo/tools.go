//go:build tools

// Package kubo pins the IPFS daemon in go.mod and go.sum; nothing here is
// compiled into a program.
package kubo

import _ "github.com/ipfs/kubo/cmd/ipfs"
