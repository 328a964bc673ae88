package main

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallDisk mounts a small file system in memory and returns a folder in it. If mounting is not allowed, it returns an empty path.
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
