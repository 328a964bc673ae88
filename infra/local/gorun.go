package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// goRunEnds is closed when the `go run` that started this process is gone. It
// passes no SIGTERM on, so whoever ends it would leave us behind. It stays open
// where something else started us.
func goRunEnds() <-chan struct{} {
	ended := make(chan struct{})
	parent := os.Getppid()
	if commandOf(parent) != "go" {
		return ended
	}
	go func() {
		for os.Getppid() == parent {
			time.Sleep(200 * time.Millisecond)
		}
		close(ended)
	}()
	return ended
}

// commandOf is the name of a process's program, or empty.
func commandOf(pid int) string {
	id := strconv.Itoa(pid)
	name, err := os.ReadFile("/proc/" + id + "/comm")
	if err != nil {
		name, err = exec.Command("ps", "-o", "comm=", "-p", id).Output()
	}
	if err != nil {
		return ""
	}
	return filepath.Base(strings.TrimSpace(string(name)))
}
