//go:build !linux

package main

import "testing"

// smallDisk works only on Linux. Here it returns an empty path.
func smallDisk(*testing.T) (data string) { return "" }
