package localpg

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The files of a data folder. A folder with ownerLock belongs to this package.
const (
	ownerLock   = "localpg.lock"  // locked by the process that runs the server; contains its id
	serverLock  = "server.lock"   // locked by the server and each of its children until they end
	passwordTxt = "password"      // of the only database user
	clusterDir  = "cluster"       // Postgres's own data folder
	newCluster  = "cluster.new"   // a cluster that initdb has not finished
	serverLog   = "server.log"    // of the last start
	memoryRoot  = "/dev/shm"      // Linux's memory file system
	memoryNeed  = 1 << 30         // free bytes that a cluster needs; a container's /dev/shm often has less
	tempPattern = "promises-pg-*" // the name of a temporary data folder
)

// A dataDir is a data folder that this process has locked.
type dataDir struct {
	path      string
	temporary bool
	owner     *account
	ownerLock *os.File
	lock      *os.File
}

func openDataDir(ctx context.Context, path string, owner *account) (_ *dataDir, err error) {
	d := &dataDir{path: path, owner: owner}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if path == "" {
		d.temporary = true
		if d.path, err = os.MkdirTemp(temporaryRoot(), tempPattern); err != nil {
			return nil, fmt.Errorf("create a temporary data folder: %w", err)
		}
	}
	if err := d.create(); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := d.takeOwnerLock(); err != nil {
		return nil, err
	}
	if owner != nil {
		if err := os.Chown(d.path, int(owner.uid), int(owner.gid)); err != nil {
			return nil, fmt.Errorf("data folder: %w", err)
		}
		folder, err := owner.firstClosed(ancestors(d.path))
		if err != nil {
			return nil, err
		}
		if folder != "" {
			return nil, fmt.Errorf("the server runs as the user %s, who cannot enter %s: choose another data folder than %s",
				owner.name, folder, d.path)
		}
	}
	if err := d.takeServerLock(ctx); err != nil {
		return nil, err
	}
	return d, d.clearPIDFile()
}

func temporaryRoot() string {
	var st syscall.Statfs_t
	if err := syscall.Statfs(memoryRoot, &st); err != nil {
		return ""
	}
	if uint64(st.Bavail)*uint64(st.Bsize) < memoryNeed { //nolint:unconvert // the types differ between systems
		return ""
	}
	return memoryRoot
}

// create creates the folder. If the folder exists, create returns an error unless
// it is empty or has an ownerLock.
func (d *dataDir) create() error {
	path, err := filepath.Abs(d.path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if d.path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	if _, err := os.Lstat(d.file(ownerLock)); err != nil {
		return fmt.Errorf("%s contains files of another program (%s): choose an empty folder", d.path, entries[0].Name())
	}
	return nil
}

func (d *dataDir) takeOwnerLock() error {
	f, err := os.OpenFile(d.file(ownerLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock the data folder: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	for try := 0; errors.Is(err, syscall.EWOULDBLOCK) && try < 10; try++ {
		// A forked child of this process inherits the descriptor, and with it a lock
		// that this process has released, until it executes its program.
		time.Sleep(20 * time.Millisecond)
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		holder, _ := os.ReadFile(f.Name())
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("the data folder %s is in use by process %s", d.path, bytes.TrimSpace(holder))
		}
		return fmt.Errorf("lock the data folder %s: %w", d.path, err)
	}
	d.ownerLock = f
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("lock the data folder: %w", err)
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		return fmt.Errorf("lock the data folder: %w", err)
	}
	return nil
}

// takeServerLock takes the server lock. It waits for the shutdown of a server whose
// owner has died.
func (d *dataDir) takeServerLock(ctx context.Context) error {
	f, err := os.OpenFile(d.file(serverLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock the data folder: %w", err)
	}
	d.lock = f
	for deadline := time.Now().Add(orphanTimeout); ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock the data folder %s: %w", d.path, err)
		}
		if time.Now().After(deadline) {
			pid, _ := d.pidFile()
			return fmt.Errorf("the data folder %s is in use by an earlier server, process %d: stop it", d.path, pid)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// clearPIDFile removes the pid file of a killed server. Another program may have
// that process id now, and Postgres would then refuse to start. The server lock
// proves that no server of this package runs. A server that was started by hand
// answers at the port in the file; clearPIDFile then returns an error.
func (d *dataDir) clearPIDFile() error {
	pid, port := d.pidFile()
	if pid > 0 && port > 0 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
		if err == nil {
			_ = conn.Close()
			return fmt.Errorf("the data folder %s is in use by a Postgres that was started by hand, process %d: stop it", d.path, pid)
		}
	}
	err := os.Remove(filepath.Join(d.cluster(), "postmaster.pid"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}

func (d *dataDir) pidFile() (pid, port int) {
	text, _ := os.ReadFile(filepath.Join(d.cluster(), "postmaster.pid"))
	lines := strings.Split(string(text), "\n")
	if len(lines) < 4 {
		return 0, 0
	}
	pid, _ = strconv.Atoi(strings.TrimSpace(lines[0]))
	port, _ = strconv.Atoi(strings.TrimSpace(lines[3]))
	return pid, port
}

func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }
func (d *dataDir) cluster() string         { return d.file(clusterDir) }

// empty removes the files that this package created, and no others.
func (d *dataDir) empty() error {
	for _, name := range []string{clusterDir, newCluster, passwordTxt, serverLog} {
		if err := os.RemoveAll(d.file(name)); err != nil {
			return fmt.Errorf("empty the data folder: %w", err)
		}
	}
	return nil
}

// major returns the major version of the cluster, or 0 if the folder has none.
func (d *dataDir) major() (int, error) {
	text, err := os.ReadFile(filepath.Join(d.cluster(), "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("data folder: %w", err)
	}
	major, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return 0, fmt.Errorf("data folder %s: PG_VERSION contains %q, not a version of Postgres", d.path, text)
	}
	return major, nil
}

// initdb creates the cluster under the name newCluster and renames it once it is
// complete.
func (d *dataDir) initdb(ctx context.Context, bin binaries, durable bool) error {
	if err := os.RemoveAll(d.file(newCluster)); err != nil {
		return fmt.Errorf("create a cluster: %w", err)
	}
	if err := d.writePassword(rand.Text()); err != nil {
		return fmt.Errorf("create a cluster: %w", err)
	}
	args := []string{
		bin.path("initdb"), "-D", d.file(newCluster), "--username=" + userName, "--pwfile=" + d.file(passwordTxt),
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions",
	}
	if !durable {
		args = append(args, "--no-sync")
	}
	proc, err := d.run(args)
	if err != nil {
		return err
	}
	select {
	case <-proc.done:
	case <-ctx.Done():
	}
	err = proc.stop(stopTimeout)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("create a cluster: initdb: %w; the end of its log:\n%s", err, d.logTail())
	}
	if err := os.Rename(d.file(newCluster), d.cluster()); err != nil {
		return fmt.Errorf("create a cluster: %w", err)
	}
	return nil
}

func (d *dataDir) writePassword(password string) error {
	_ = os.Remove(d.file(passwordTxt))
	f, err := os.OpenFile(d.file(passwordTxt), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if d.owner != nil {
		if err := f.Chown(int(d.owner.uid), int(d.owner.gid)); err != nil {
			return err
		}
	}
	if _, err := f.WriteString(password); err != nil {
		return err
	}
	return f.Sync()
}

func (d *dataDir) password() (string, error) {
	text, err := os.ReadFile(d.file(passwordTxt))
	if err != nil {
		return "", fmt.Errorf("read the cluster's password: %w", err)
	}
	return string(text), nil
}

// run starts a program whose output goes to the log.
func (d *dataDir) run(args []string) (*process, error) {
	out, err := os.Create(d.file(serverLog))
	if err != nil {
		return nil, fmt.Errorf("server log: %w", err)
	}
	defer func() { _ = out.Close() }()
	temporary := ""
	if d.temporary {
		temporary = d.path
	}
	return d.owner.supervise(args, out, d.lock, temporary)
}

// logTail returns the last lines of the log, without the final newline.
func (d *dataDir) logTail() string {
	const keep = 12
	text, _ := os.ReadFile(d.file(serverLog))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-keep):], "\n")
}

func (d *dataDir) logHas(s string) bool {
	text, _ := os.ReadFile(d.file(serverLog))
	return bytes.Contains(text, []byte(s))
}

// close unlocks the folder, and removes it if it is temporary.
func (d *dataDir) close() {
	if d.temporary {
		_ = os.RemoveAll(d.path)
	}
	for _, f := range []*os.File{d.lock, d.ownerLock} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// ancestors returns path and the folders above it, the topmost first.
func ancestors(path string) []string {
	list := []string{path}
	for path != filepath.Dir(path) {
		path = filepath.Dir(path)
		list = append([]string{path}, list...)
	}
	return list
}
