package localpg

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/skip"
)

// ownerEnv turns the test binary into a process that owns a server until it is
// killed. The variable names the data folder; "temporary" means a temporary one.
const ownerEnv = "LOCALPG_TEST_OWNER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerEnv); dir != "" {
		if dir == "temporary" {
			dir = ""
		}
		s, err := Start(context.Background(), Options{Dir: dir})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.dir.path)
		select {}
	}
	os.Exit(m.Run())
}

// dead waits until no process has locked the folder's server lock.
func dead(t *testing.T, lock string) {
	t.Helper()
	f, err := os.Open(lock)
	if os.IsNotExist(err) {
		return
	}
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	require.Eventually(t, func() bool {
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
	}, time.Minute, 5*time.Millisecond, "the server still runs")
}

func TestDataIsKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "some where", "data")
	var log bytes.Buffer
	s := begin(t, Options{Dir: dir, Durable: true, Log: &log})
	t.Run("the server has the settings and the database", func(t *testing.T) {
		require.Equal(t, "on", query[string](t, s, "SHOW fsync"))
		require.Equal(t, "promises", query[string](t, s, "SELECT current_database()::text"))
		require.Equal(t, "UTF8", query[string](t, s, "SHOW server_encoding"))
		query[int](t, s, "WITH t AS (SELECT 1) SELECT 7 FROM t")
	})
	conn, err := pgx.Connect(t.Context(), s.URL())
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 7 AS n")
	require.NoError(t, err)
	t.Run("Stop ends the server while a client is connected", func(t *testing.T) {
		require.NoError(t, s.Stop())
		dead(t, filepath.Join(dir, serverLock))
		_, err = pgx.Connect(t.Context(), s.URL())
		require.Error(t, err)
	})
	t.Run("Stop can be repeated", func(t *testing.T) { require.NoError(t, s.Stop()) })
	t.Run("the log names the address", func(t *testing.T) {
		require.Contains(t, log.String(), "running on 127.0.0.1:")
	})
	t.Run("the password is secret", func(t *testing.T) {
		info, err := os.Stat(filepath.Join(dir, passwordTxt))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		u, err := url.Parse(s.URL())
		require.NoError(t, err)
		password, _ := u.User.Password()
		require.Len(t, password, 26)
		require.NotContains(t, log.String(), password)
	})
	t.Run("the next server has the data and its own settings", func(t *testing.T) {
		again := begin(t, Options{Dir: dir})
		require.Equal(t, 7, query[int](t, again, "SELECT n FROM kept"))
		require.Equal(t, "off", query[string](t, again, "SHOW fsync"))
	})
}

func TestWrongPasswordIsRefused(t *testing.T) {
	t.Parallel()
	s := begin(t, Options{})
	u, err := url.Parse(s.URL())
	require.NoError(t, err)
	u.User = url.UserPassword(u.User.Username(), "guess")
	_, err = pgx.Connect(t.Context(), u.String())
	require.ErrorContains(t, err, "password authentication failed")
}

func TestTemporaryFolderIsRemoved(t *testing.T) {
	t.Parallel()
	s := begin(t, Options{})
	require.DirExists(t, s.dir.path)
	require.Equal(t, 1, query[int](t, s, "SELECT 1"))
	require.NoError(t, s.Stop())
	require.NoDirExists(t, s.dir.path)
}

// owner starts a process that owns a server (see ownerEnv). It returns the process and its data folder.
func owner(t *testing.T, dir string) (*exec.Cmd, string) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), ownerEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, line)
	line = strings.TrimSpace(line)
	require.DirExists(t, line)
	return cmd, line
}

func TestServerDiesWithItsOwner(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	cmd, path := owner(t, dir)

	t.Run("while the owner lives its folder is in use", func(t *testing.T) {
		_, err := Start(t.Context(), Options{Dir: dir})
		require.ErrorContains(t, err, fmt.Sprintf("the data folder %s is in use by process %d", path, cmd.Process.Pid))
	})
	t.Run("after the owner was killed another server starts at once", func(t *testing.T) {
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		s := begin(t, Options{Dir: dir})
		require.Equal(t, 1, query[int](t, s, "SELECT 1"))
		require.NoError(t, s.Stop())
		dead(t, filepath.Join(dir, serverLock))
	})
}

func TestTemporaryFolderDiesWithItsOwner(t *testing.T) {
	t.Parallel()
	cmd, path := owner(t, "temporary")
	require.NoError(t, cmd.Process.Kill())
	dead(t, filepath.Join(path, serverLock))
	require.Eventually(t, func() bool {
		_, err := os.Stat(path)
		return os.IsNotExist(err)
	}, time.Minute, 5*time.Millisecond)
}

// A second start on a folder fails, even with Fresh, and the first server continues.
func TestFolderInUse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	first := begin(t, Options{Dir: dir})
	for _, fresh := range []bool{false, true} {
		t.Run(fmt.Sprintf("fresh=%v", fresh), func(t *testing.T) {
			_, err := Start(t.Context(), Options{Dir: dir, Fresh: fresh})
			require.ErrorContains(t, err, fmt.Sprintf("is in use by process %d", os.Getpid()))
		})
	}
	require.Equal(t, 1, query[int](t, first, "SELECT 1"))
}

func TestStartsAtOnceOnOneFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	type result struct {
		s   *Server
		err error
	}
	results := make(chan result)
	for range 3 {
		go func() {
			s, err := Start(context.Background(), Options{Dir: dir})
			results <- result{s, err}
		}()
	}
	var running []*Server
	for range 3 {
		r := <-results
		if r.err != nil {
			require.ErrorContains(t, r.err, "is in use by process")
			continue
		}
		running = append(running, r.s)
	}
	require.Len(t, running, 1)
	require.NoError(t, running[0].Stop())
}

// A pid file that a killed server left does not prevent a start, even if another process has the id.
func TestStalePIDFile(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	require.NoError(t, begin(t, Options{Dir: dir}).Stop())
	// After a reboot, the file may have the id of a process that is not a server.
	pidFile := filepath.Join(dir, clusterDir, "postmaster.pid")
	stale := fmt.Sprintf("%d\n%s\n1\n1\n\n127.0.0.1\n", os.Getpid(), filepath.Dir(pidFile))
	require.NoError(t, os.WriteFile(pidFile, []byte(stale), 0o600))
	require.Equal(t, 1, query[int](t, begin(t, Options{Dir: dir}), "SELECT 1"))
}

// A start that ends during initdb leaves no cluster, and the next start succeeds.
func TestHalfMadeCluster(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(filepath.Join(dir, newCluster, "PG_VERSION")); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := Start(ctx, Options{Dir: dir})
	require.ErrorIs(t, err, context.Canceled)
	require.NoDirExists(t, filepath.Join(dir, clusterDir))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, newCluster, "base"), 0o700), "a killed initdb leaves this folder")
	require.Equal(t, 1, query[int](t, begin(t, Options{Dir: dir}), "SELECT 1"))
}

// Fresh deletes the cluster and its password, and no files of other programs.
func TestFresh(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	s := begin(t, Options{Dir: dir})
	oldURL := s.URL()
	conn, err := pgx.Connect(t.Context(), s.URL())
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE gone ()")
	require.NoError(t, err)
	require.NoError(t, s.Stop())
	others := filepath.Join(dir, "not-ours")
	require.NoError(t, os.WriteFile(others, nil, 0o600))

	s = begin(t, Options{Dir: dir, Fresh: true})
	require.False(t, query[bool](t, s, "SELECT to_regclass('gone') IS NOT NULL"))
	require.NotEqual(t, oldURL, s.URL())
	require.FileExists(t, others)
}

// A folder with files of another program is refused and stays unchanged.
func TestFolderOfOthers(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	precious := filepath.Join(dir, "cluster", "thesis.txt")
	require.NoError(t, os.Mkdir(filepath.Dir(precious), 0o700))
	require.NoError(t, os.WriteFile(precious, nil, 0o600))
	before, err := os.Stat(dir)
	require.NoError(t, err)
	for _, fresh := range []bool{false, true} {
		t.Run(fmt.Sprintf("fresh=%v", fresh), func(t *testing.T) {
			_, err := Start(t.Context(), Options{Dir: dir, Fresh: fresh})
			require.ErrorContains(t, err, dir+" contains files of another program (cluster): choose an empty folder")
		})
	}
	require.FileExists(t, precious)
	after, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, before.Sys().(*syscall.Stat_t).Uid, after.Sys().(*syscall.Stat_t).Uid)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

// The error of a server that does not start quotes its log.
func TestServerThatDoesNotComeUp(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	require.NoError(t, begin(t, Options{Dir: dir}).Stop())
	require.NoError(t, os.WriteFile(filepath.Join(dir, clusterDir, "postgresql.conf"), []byte("no_such_setting = 1\n"), 0o600))
	_, err := Start(t.Context(), Options{Dir: dir})
	require.ErrorContains(t, err, `unrecognized configuration parameter "no_such_setting"`)
	dead(t, filepath.Join(dir, serverLock))
}

func TestRootsServerIsNotRoots(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		skip.Now(t, "only root's server runs as another user")
	}
	t.Run("the cluster belongs to another user", func(t *testing.T) {
		s := begin(t, Options{})
		info, err := os.Stat(filepath.Join(s.dir.path, clusterDir))
		require.NoError(t, err)
		require.NotZero(t, info.Sys().(*syscall.Stat_t).Uid)
	})
	t.Run("a folder that this user cannot enter is refused", func(t *testing.T) {
		closed := filepath.Join(folder(t), "closed")
		require.NoError(t, os.Mkdir(closed, 0o700))
		_, err := Start(t.Context(), Options{Dir: filepath.Join(closed, "data")})
		require.ErrorContains(t, err, "the server runs as the user")
		require.ErrorContains(t, err, "who cannot enter "+closed+":")
	})
}
