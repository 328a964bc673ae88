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

// errExit: the program ended by itself, with a status other than 0.
var errExit = errors.New("ended with an error")

// account is the unprivileged user as whom the server runs; nil is ourselves.
type account struct {
	uid, gid uint32
	name     string
}

func serverUser() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, errors.New("Postgres refuses to run as root, and there is neither a user postgres nor a user nobody")
		}
	}
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

// command prepares a program of Postgres's: as the account, in a session of its
// own so that a Ctrl-C on the terminal does not reach it, and without those
// variables that would change what it does.
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
	// With TZ set, initdb does not search the whole zone database for ours.
	cmd.Env = append(cmd.Env, "LC_ALL=C", "TZ=UTC")
	return cmd
}

// enter returns the first of the folders that the account cannot enter, or "".
func (a *account) enter(folders []string) (string, error) {
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

// process is a program under a supervisor that outlives us. The supervisor
// waits for the end of its standard input, which comes when we close it or die,
// however we die; then it interrupts the program, waits for it, and removes a
// temporary folder unless we lived to say "keep".
type process struct {
	stdin *os.File
	done  chan struct{} // closed once the program and all its children are gone
	exit  chan error    // the supervisor's end
	pid   int
}

// Descriptor 3 is the lock that says that the program lives, 4 the pipe whose
// end tells us that it does not. Both are the program's, not the supervisor's.
const supervisor = `
dir=$1; shift
"$@" </dev/null & pid=$!
exec 3<&- 4>&-
read -r word
kill -INT "$pid" 2>/dev/null
wait "$pid"; code=$?
[ "$word" = keep ] || [ -z "$dir" ] || rm -rf "$dir"
exit "$code"`

// supervise starts args as the account. Its output goes to out; it and all its
// children hold lock. temporary is the folder to remove if we die, or "".
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

// stop interrupts the program if it still runs, and waits for its end. It is
// called once.
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
		return fmt.Errorf("not ended within %v: killed", timeout)
	}
	select {
	case <-p.done:
	case <-timer.C:
		return fmt.Errorf("not ended within %v, and its supervisor is gone", timeout)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errExit, err)
	}
	return nil
}
