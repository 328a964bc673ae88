package skip

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// goStderr opens the standard error of the "go test" that started this process,
// perhaps through the program of its flag -exec. It returns nil if it finds none.
func goStderr() *os.File {
	const programs = 4 // the ancestors to check
	pid := os.Getppid()
	for range programs {
		if isGoTest(pid) {
			return stderrOf(pid)
		}
		if pid = parentOf(pid); pid <= 1 {
			break
		}
	}
	return nil
}

func isGoTest(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || filepath.Base(exe) != "go" {
		return false
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := bytes.Split(line, []byte{0})
	return err == nil && len(args) > 1 && string(args[1]) == "test"
}

func parentOf(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:]) // state, parent, ...
	parent, _ := strconv.Atoi(string(fields[1]))
	return parent
}

// stderrOf returns the standard error of the process: the same open file, if the
// system allows it. Otherwise it opens the file again, if that is a terminal, a pipe
// or a file opened to append. In any other file the process would overwrite the
// reported lines, and stderrOf returns nil.
func stderrOf(pid int) *os.File {
	if process, err := unix.PidfdOpen(pid, 0); err == nil {
		defer unix.Close(process) //nolint:errcheck // nothing was written to it
		if fd, err := unix.PidfdGetfd(process, 2, 0); err == nil {
			return os.NewFile(uintptr(fd), "stderr")
		}
	}
	out, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/2", pid), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil
	}
	if info, err := out.Stat(); err != nil || info.Mode().IsRegular() && !appends(pid) {
		_ = out.Close()
		return nil
	}
	return out
}

// appends reports whether the process opened its standard error to append to it.
func appends(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/2", pid))
	if err != nil {
		return false
	}
	_, after, _ := bytes.Cut(text, []byte("flags:"))
	fields := bytes.Fields(after)
	if len(fields) == 0 {
		return false
	}
	flags, err := strconv.ParseInt(string(fields[0]), 8, 64)
	return err == nil && flags&unix.O_APPEND != 0
}
