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

// TestMain runs the tests. With HOLD_TEMPORARY_FOLDER it instead creates a temporary folder and waits until it is killed.
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

// startHolder starts another process that has a temporary folder.
func startHolder(t *testing.T) (dir string, kill func()) {
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

// TestTemporaryFolder creates the folders of a killed and of a living process, and files, links and folders with similar names.
func TestTemporaryFolder(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	put := func(dir string) string {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "resolve"), 0o700))
		file := filepath.Join(dir, "resolve", "bootstrap")
		require.NoError(t, os.WriteFile(file, nil, 0o700))
		return file
	}
	killedDir, kill := startHolder(t)
	livingDir, _ := startHolder(t)
	killed, living := put(killedDir), put(livingDir)
	other, theirs := put(filepath.Join(tmp, "promises-functions-1")), put(t.TempDir())
	link := filepath.Join(tmp, build.TemporaryPrefix+"link")
	require.NoError(t, os.Symlink(filepath.Dir(filepath.Dir(theirs)), link))
	file := filepath.Join(tmp, build.TemporaryPrefix+"file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))

	first, remove, err := build.TemporaryFolder()
	require.NoError(t, err)
	t.Run("keeps the folders of living processes", func(t *testing.T) {
		requireExist(t, killed, living, other, theirs, link, file, first)
	})
	kill()
	second, removeSecond, err := build.TemporaryFolder()
	require.NoError(t, err)
	t.Run("removes the folder of a killed process", func(t *testing.T) {
		require.NoDirExists(t, killedDir)
	})
	t.Run("removes nothing else", func(t *testing.T) {
		requireExist(t, living, other, theirs, link, file, first, second)
	})
	t.Run("remove deletes only its own folder", func(t *testing.T) {
		remove()
		require.NoDirExists(t, first)
		require.DirExists(t, second)
		removeSecond()
		require.NoDirExists(t, second)
	})
}

func requireExist(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		_, err := os.Lstat(path)
		require.NoError(t, err)
	}
}

// Processes that start at the same time do not remove each other's folders.
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

// The most recently used folders are kept, and so is a folder that a build uses.
func TestKeptFolders(t *testing.T) {
	cacheIn(t)
	use := func(t *testing.T, root string, target build.Target) (dir string, release func()) {
		t.Helper()
		dir, release, err := build.KeptFolder(t.Context(), root, target)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "resolve"), nil, 0o600))
		return dir, release
	}
	setUsed := func(t *testing.T, dir string, ago time.Duration) {
		t.Helper()
		at := time.Now().Add(-ago)
		require.NoError(t, os.Chtimes(dir, at, at))
	}
	busy, releaseBusy := use(t, "/busy", build.Target{})
	t.Run("two concurrent builds share a folder", func(t *testing.T) {
		again, releaseAgain := use(t, "/busy", build.Target{})
		defer releaseAgain()
		require.Equal(t, busy, again)
	})
	setUsed(t, busy, 100*time.Hour)
	var dirs []string
	for i := range build.KeptFolders {
		target := build.Target{}
		if i%2 == 0 {
			target = build.Lambda
		}
		dir, release := use(t, fmt.Sprint("/", i/2), target)
		release()
		setUsed(t, dir, time.Duration(50-i)*time.Hour)
		dirs = append(dirs, dir)
	}
	t.Run("the oldest folder stays while a build uses it", func(t *testing.T) {
		for _, dir := range append(dirs, busy) {
			require.FileExists(t, filepath.Join(dir, "resolve"))
		}
	})
	dir, release := use(t, "/0", build.Lambda) // it is the newest now
	release()
	t.Run("the same checkout and target get the same folder", func(t *testing.T) {
		require.Equal(t, dirs[0], dir)
	})
	for n, want := range [][]string{{dirs[2], dirs[3], dirs[0]}, {dirs[3], dirs[0]}, {dirs[0]}, {}} {
		newest, release := use(t, fmt.Sprint("/new/", n), build.Target{})
		release()
		setUsed(t, newest, -time.Duration(n)*time.Hour)
		t.Run(fmt.Sprintf("after %d new folders the oldest are removed", n+1), func(t *testing.T) {
			entries, err := os.ReadDir(filepath.Dir(newest))
			require.NoError(t, err)
			require.Len(t, entries, build.KeptFolders+1, "the kept ones, and the one in use")
			for _, dir := range append(want, newest, busy) {
				require.FileExists(t, filepath.Join(dir, "resolve"))
			}
		})
	}
	releaseBusy()
	_, release = use(t, "/last", build.Target{})
	release()
	t.Run("a released folder is removed if it is the oldest", func(t *testing.T) {
		require.NoDirExists(t, busy)
	})
}

// Concurrent builds keep their folders until they release them.
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

// A process opens a folder, and another process removes it. The lock then fails, even if a new folder has the same name.
func TestLockOfARemovedFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kept")
	require.NoError(t, os.Mkdir(dir, 0o700))
	f, err := os.Open(dir)
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // the file was only locked
	require.NoError(t, build.LockOpened(f, syscall.LOCK_EX))
	require.NoError(t, os.Rename(dir, dir+".removed"))
	require.ErrorIs(t, build.LockOpened(f, syscall.LOCK_EX), os.ErrNotExist)
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.ErrorIs(t, build.LockOpened(f, syscall.LOCK_EX), os.ErrNotExist)
}
