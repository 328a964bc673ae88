//go:build !lambda.norpc

// The functions are built for deployment with the tag lambda.norpc. Without this
// file they do not link the SDK's search for credentials, which only a shell needs.

package main

import "github.com/flovyn/promises/shared/app/remote"

func init() { connect = remote.Connect }
