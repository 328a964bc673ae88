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

// A folder that is in use is locked, shared, by the processes that use it. The
// kernel ends the lock with the process, however that ends. A folder is removed
// only under an exclusive lock, so only once nobody uses it.

const (
	// temporaryPrefix begins the names of temporary folders.
	temporaryPrefix = "flovyn-promises-functions-"
	// keptFolders is how many folders of binaries are kept, for checkouts and
	// targets. Each holds what all functions take, about 200 MB.
	keptFolders = 4
)

// TemporaryFolder makes an empty folder for Functions, which belongs to this
// process until it calls remove. It first removes the folders whose processes
// were killed.
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
		release, err := use(dir)
		switch {
		case err == nil:
			return dir, func() { os.RemoveAll(dir); release() }, nil
		case !errors.Is(err, errRemoved): // another process took it for abandoned
			os.RemoveAll(dir)
			return "", nil, fmt.Errorf("temporary folder: %w", err)
		}
	}
}

// keptFolder returns where the binaries of the module at root are kept from build
// to build, in use until release is called. It removes all but the keptFolders
// that were used last, unless they are in use. It fails if the user has no cache
// folder.
func keptFolder(ctx context.Context, root string, target Target) (dir string, release func(), err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", nil, err
	}
	all := filepath.Join(cache, "flovyn-promises-build")
	of := fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join([]string{root, target.OS, target.Arch}, "\n"))))
	dir = filepath.Join(all, of[:16])
	for {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", nil, err
		}
		release, err = use(dir)
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

// removeOldest removes the folders in dir except those that were used last.
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

// removeUnused removes the folder, unless it is in use or cannot be locked.
func removeUnused(dir string) {
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return
	}
	if release, err := lock(dir, syscall.LOCK_EX); err == nil {
		os.RemoveAll(dir)
		release()
	}
}

// errRemoved: the folder is being removed, or has been.
var errRemoved = errors.New("folder removed")

// use keeps the folder from being removed until release is called. If the file
// system has no locks, the folder is not locked, and no other process removes it.
func use(dir string) (release func(), err error) {
	release, err = lock(dir, syscall.LOCK_SH)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, os.ErrNotExist):
		return nil, errRemoved
	case errors.Is(err, syscall.ENOTSUP), errors.Is(err, syscall.ENOLCK), errors.Is(err, syscall.EBADF), errors.Is(err, syscall.ENOSYS):
		return func() {}, nil
	}
	return release, err
}

// lock locks the folder at that path, or fails at once.
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

// lockOpened locks an opened folder. It fails if the folder was removed before
// the lock, even if there is another one at its path now.
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
