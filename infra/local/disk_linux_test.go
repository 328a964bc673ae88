package main

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallDisk mounts a file system of its own, in memory, on a folder. It returns an empty path where that is not allowed.
func smallDisk(t *testing.T) (data string) {
	t.Helper()
	dir := tempFolder(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=200m,mode=0711"); err != nil {
		t.Log("mount:", err)
		return ""
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	return filepath.Join(dir, "data")
}
