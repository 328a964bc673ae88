package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Processes that use a folder hold a shared lock on it. The kernel releases the lock
// when the process ends, even if it is killed. A folder is removed only under an
// exclusive lock, so only when no process uses it.

const (
	// temporaryPrefix begins the names of temporary folders.
	temporaryPrefix = "flovyn-promises-functions-"
	// keptFolders is the number of folders that are kept, one for each checkout and
	// target. The binaries in a folder take about 200 MB.
	keptFolders = 4
)

// TemporaryFolder creates an empty folder, for example for Functions. The folder belongs
// to this process until it calls remove, which deletes the folder. TemporaryFolder also
// deletes the folders of processes that ended without calling remove.
func TemporaryFolder() (dir string, remove func(), err error) {
	abandoned, err := filepath.Glob(filepath.Join(os.TempDir(), temporaryPrefix+"*"))
	if err != nil {
		return "", nil, fmt.Errorf("temporary folder: %w", err)
	}
	for _, dir := range abandoned {
		removeUnused(dir)
	}
	for {
		dir, err := os.MkdirTemp("", temporaryPrefix)
		if err != nil {
			return "", nil, fmt.Errorf("temporary folder: %w", err)
		}
		release, err := lockShared(dir)
		switch {
		case err == nil:
			return dir, func() { os.RemoveAll(dir); release() }, nil
		case !errors.Is(err, errRemoved): // another process deleted it before it was locked
			os.RemoveAll(dir)
			return "", nil, fmt.Errorf("temporary folder: %w", err)
		}
	}
}

// keptFolder returns the folder that keeps the binaries of the module at root from build
// to build. The folder is locked until release is called. keptFolder also removes the
// least recently used folders until keptFolders are left; it leaves locked folders. It
// fails if the user has no cache folder.
func keptFolder(ctx context.Context, root string, target Target) (dir string, release func(), err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", nil, err
	}
	all := filepath.Join(cache, "flovyn-promises-build")
	name := fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join([]string{root, target.OS, target.Arch}, "\n"))))
	dir = filepath.Join(all, name[:16])
	for {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", nil, err
		}
		release, err = lockShared(dir)
		if !errors.Is(err, errRemoved) {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return "", nil, ctx.Err()
		}
	}
	if err != nil {
		return "", nil, err
	}
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil {
		release()
		return "", nil, err
	}
	removeOldest(all)
	return dir, release, nil
}

// removeOldest removes the folders in dir except the keptFolders that were used last.
func removeOldest(dir string) {
	entries, _ := os.ReadDir(dir)
	used := map[string]time.Time{}
	var folders []string
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.IsDir() {
			used[e.Name()] = info.ModTime()
			folders = append(folders, e.Name())
		}
	}
	slices.SortFunc(folders, func(a, b string) int { return used[b].Compare(used[a]) })
	for _, name := range folders[min(keptFolders, len(folders)):] {
		removeUnused(filepath.Join(dir, name))
	}
}

// removeUnused removes the folder, unless a process uses it or it cannot be locked.
func removeUnused(dir string) {
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return
	}
	if release, err := lock(dir, syscall.LOCK_EX); err == nil {
		os.RemoveAll(dir)
		release()
	}
}

// errRemoved is the error for a folder that another process is removing or has removed.
var errRemoved = errors.New("folder removed")

// lockShared prevents the removal of the folder until release is called. On a file
// system without locks it succeeds without a lock. No process removes the folder there,
// because removal needs a lock.
func lockShared(dir string) (release func(), err error) {
	release, err = lock(dir, syscall.LOCK_SH)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, os.ErrNotExist):
		return nil, errRemoved
	case errors.Is(err, syscall.ENOTSUP), errors.Is(err, syscall.ENOLCK), errors.Is(err, syscall.EBADF), errors.Is(err, syscall.ENOSYS):
		return func() {}, nil
	}
	return release, err
}

// lock locks the folder at that path. It returns an error instead of waiting.
func lock(dir string, how int) (release func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := lockOpened(f, how); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// lockOpened locks an opened folder. It fails if the folder was removed before the lock,
// even if another folder is at its path now.
func lockOpened(f *os.File, how int) error {
	if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	locked, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(f.Name())
	if err != nil {
		return err
	}
	if !os.SameFile(locked, there) {
		return &os.PathError{Op: "lock", Path: f.Name(), Err: os.ErrNotExist}
	}
	return nil
}
