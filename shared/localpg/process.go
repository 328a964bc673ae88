package localpg

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// errExit is the error of a program that ended by itself with a status other than 0.
var errExit = errors.New("ended with an error")

// An account is the unprivileged user that the server runs as; nil means the user of
// this process.
type account struct {
	uid, gid uint32
	name     string
}

// serverUsers are the users that the server may run as if root starts it. The first
// one that exists is used.
var serverUsers = []string{"postgres", "nobody"}

// serverUser returns the account for the server of this process.
func serverUser() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range serverUsers {
		if u, err := user.Lookup(name); err == nil {
			return accountOf(u)
		}
	}
	return nil, fmt.Errorf("Postgres refuses to run as root, and none of the users %q exists: create one of them", serverUsers)
}

func accountOf(u *user.User) (*account, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u.Username, err)
	}
	return &account{uid: uint32(uid), gid: uint32(gid), name: u.Username}, nil
}

// command prepares one of Postgres's programs. It runs as the account, without the
// environment variables that change its behaviour. Its own session keeps a Ctrl-C on
// the terminal from it.
func (a *account) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if a != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "LC_") && !strings.HasPrefix(v, "LANG") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	// With TZ set, initdb does not search the zone database for the machine's zone.
	cmd.Env = append(cmd.Env, "LC_ALL=C", "TZ=UTC")
	return cmd
}

// firstClosed returns the first of the folders that the account cannot enter, or "".
func (a *account) firstClosed(folders []string) (string, error) {
	if a == nil {
		return "", nil
	}
	cmd := a.command("/bin/sh", append([]string{
		"-c", `for d; do cd "$d" 2>/dev/null || { printf %s "$d"; exit 0; }; done`, "sh",
	}, folders...)...)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run a program as %s: %w", a.name, err)
	}
	return string(out), nil
}

// A process is a program under a supervisor that outlives this process. The
// supervisor's standard input ends when this process closes it or dies, even if it
// is killed. The supervisor then interrupts the program and waits for its end. It
// removes a temporary folder unless this process has sent "keep" before.
type process struct {
	stdin *os.File
	done  chan struct{} // closed once the program and all its children have ended
	exit  chan error    // gets the supervisor's result
	pid   int
}

// supervisor is the supervisor's shell script. The program inherits descriptor 3,
// the server lock, and descriptor 4, a pipe that ends with the program. The
// supervisor closes both for itself.
const supervisor = `
dir=$1; shift
"$@" </dev/null & pid=$!
exec 3<&- 4>&-
read -r word
kill -INT "$pid" 2>/dev/null
wait "$pid"; code=$?
[ "$word" = keep ] || [ -z "$dir" ] || rm -rf "$dir"
exit "$code"`

// supervise starts the program args as the account. Its output goes to out. The
// program and all its children have lock locked. temporary is the folder that the
// supervisor removes if this process dies, or "".
func (a *account) supervise(args []string, out, lock *os.File, temporary string) (*process, error) {
	stdinR, stdinW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = stdinR.Close() }()
	aliveR, aliveW, err := os.Pipe()
	if err != nil {
		_ = stdinW.Close()
		return nil, err
	}
	defer func() { _ = aliveW.Close() }()

	cmd := a.command("/bin/sh", append([]string{"-c", supervisor, "localpg", temporary}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdinR, out, out
	cmd.ExtraFiles = []*os.File{lock, aliveW}
	if err := cmd.Start(); err != nil {
		_, _ = stdinW.Close(), aliveR.Close()
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	p := &process{stdin: stdinW, done: make(chan struct{}), exit: make(chan error, 1), pid: cmd.Process.Pid}
	go func() {
		defer close(p.done)
		_, _ = aliveR.Read(make([]byte, 1))
		_ = aliveR.Close()
	}()
	go func() { p.exit <- cmd.Wait() }()
	return p, nil
}

// stop interrupts the program if it still runs, and waits for its end. It may be
// called only once.
func (p *process) stop(timeout time.Duration) error {
	_, _ = p.stdin.WriteString("keep\n")
	_ = p.stdin.Close()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var err error
	select {
	case err = <-p.exit:
	case <-timer.C:
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
		return fmt.Errorf("it did not end within %v and was killed", timeout)
	}
	select {
	case <-p.done:
	case <-timer.C:
		return fmt.Errorf("it did not end within %v after its supervisor had ended", timeout)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errExit, err)
	}
	return nil
}
