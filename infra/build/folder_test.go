package build_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/build"
)

// TestMain is also a process that has a temporary folder until it is killed.
func TestMain(m *testing.M) {
	if os.Getenv("HOLD_TEMPORARY_FOLDER") == "" {
		os.Exit(m.Run())
	}
	dir, _, err := build.TemporaryFolder()
	if err != nil {
		panic(err)
	}
	fmt.Println(dir)
	select {}
}

// holder starts another process with a temporary folder.
func holder(t *testing.T) (dir string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HOLD_TEMPORARY_FOLDER=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill = sync.OnceFunc(func() {
		assert.NoError(t, cmd.Process.Kill())
		cmd.Wait() //nolint:errcheck // it was killed
	})
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return line[:len(line)-1], kill
}

// A start removes the folders of processes that were killed, and nothing else.
func TestTemporaryFolder(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	put := func(dir string) string {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "resolve"), 0o700))
		file := filepath.Join(dir, "resolve", "bootstrap")
		require.NoError(t, os.WriteFile(file, nil, 0o700))
		return file
	}
	killedDir, kill := holder(t)
	livingDir, _ := holder(t)
	killed, living := put(killedDir), put(livingDir)
	other, theirs := put(filepath.Join(tmp, "promises-functions-1")), put(t.TempDir())
	link := filepath.Join(tmp, build.TemporaryPrefix+"link")
	require.NoError(t, os.Symlink(filepath.Dir(filepath.Dir(theirs)), link))
	file := filepath.Join(tmp, build.TemporaryPrefix+"file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))

	first, remove, err := build.TemporaryFolder()
	require.NoError(t, err)
	for _, path := range []string{killed, living, other, theirs, link, file, first} {
		_, err := os.Lstat(path)
		require.NoError(t, err, "both processes live")
	}
	kill()
	second, removeSecond, err := build.TemporaryFolder()
	require.NoError(t, err)
	require.NoDirExists(t, killedDir)
	for _, path := range []string{living, other, theirs, link, file, first, second} {
		_, err := os.Lstat(path)
		require.NoError(t, err)
	}
	remove()
	require.NoDirExists(t, first)
	require.DirExists(t, second)
	removeSecond()
	require.NoDirExists(t, second)
}

// Of many that start at once, none loses its folder.
func TestTemporaryFoldersAtOnce(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var starts sync.WaitGroup
	for range 8 {
		starts.Go(func() {
			for range 30 {
				dir, remove, err := build.TemporaryFolder()
				if !assert.NoError(t, err) {
					return
				}
				file := filepath.Join(dir, "f")
				assert.NoError(t, os.WriteFile(file, nil, 0o600))
				time.Sleep(time.Millisecond)
				assert.FileExists(t, file)
				remove()
			}
		})
	}
	starts.Wait()
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func cacheIn(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
}

// The binaries of the checkouts and targets that were built last are kept, and of those that are being built.
func TestKeptFolders(t *testing.T) {
	cacheIn(t)
	use := func(root string, target build.Target) (dir string, release func()) {
		dir, release, err := build.KeptFolder(t.Context(), root, target)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "resolve"), nil, 0o600))
		return dir, release
	}
	used := func(dir string, ago time.Duration) {
		at := time.Now().Add(-ago)
		require.NoError(t, os.Chtimes(dir, at, at))
	}
	busy, releaseBusy := use("/busy", build.Target{})
	again, releaseAgain := use("/busy", build.Target{})
	require.Equal(t, busy, again, "two builds at once use one folder")
	releaseAgain()
	used(busy, 100*time.Hour)
	var dirs []string
	for i := range build.KeptFolders {
		target := build.Target{}
		if i%2 == 0 {
			target = build.Lambda
		}
		dir, release := use(fmt.Sprint("/", i/2), target)
		release()
		used(dir, time.Duration(50-i)*time.Hour)
		dirs = append(dirs, dir)
	}
	for _, dir := range append(dirs, busy) {
		require.FileExists(t, filepath.Join(dir, "resolve"), "busy is the oldest, and in use")
	}

	dir, release := use("/0", build.Lambda)
	release()
	require.Equal(t, dirs[0], dir, "used again, it is the newest")
	for n, want := range [][]string{{dirs[2], dirs[3], dirs[0]}, {dirs[3], dirs[0]}, {dirs[0]}, {}} {
		newest, release := use(fmt.Sprint("/new/", n), build.Target{})
		release()
		used(newest, -time.Duration(n)*time.Hour)
		entries, err := os.ReadDir(filepath.Dir(newest))
		require.NoError(t, err)
		require.Len(t, entries, build.KeptFolders+1, "and busy")
		for _, dir := range append(want, newest, busy) {
			require.FileExists(t, filepath.Join(dir, "resolve"))
		}
	}
	releaseBusy()
	_, release = use("/last", build.Target{})
	release()
	require.NoDirExists(t, busy)
}

// Of many builds at once, each keeps its folder until it is done.
func TestKeptFoldersAtOnce(t *testing.T) {
	cacheIn(t)
	var builds sync.WaitGroup
	for i := range 12 {
		builds.Go(func() {
			for range 30 {
				dir, release, err := build.KeptFolder(t.Context(), fmt.Sprint("/", i%9), build.Target{})
				if !assert.NoError(t, err) {
					return
				}
				file := filepath.Join(dir, fmt.Sprint(i))
				assert.NoError(t, os.WriteFile(file, nil, 0o600))
				time.Sleep(time.Millisecond)
				assert.FileExists(t, file)
				release()
			}
		})
	}
	builds.Wait()
}

// A process that opened a folder before another one removed it does not take the next folder of that name for its own.
func TestLockOfARemovedFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kept")
	require.NoError(t, os.Mkdir(dir, 0o700))
	f, err := os.Open(dir)
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // it was only locked
	require.NoError(t, build.LockOpened(f, syscall.LOCK_EX))
	require.NoError(t, os.Rename(dir, dir+".removed"))
	require.ErrorIs(t, build.LockOpened(f, syscall.LOCK_EX), os.ErrNotExist)
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.ErrorIs(t, build.LockOpened(f, syscall.LOCK_EX), os.ErrNotExist)
}
