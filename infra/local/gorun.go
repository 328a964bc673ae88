package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// goRunEnded returns a channel that is closed when the `go run` that started this
// process exits. `go run` does not forward SIGTERM, so a SIGTERM that ends it would
// leave this process running. The channel stays open if `go run` is not the parent.
func goRunEnded() <-chan struct{} {
	ended := make(chan struct{})
	parent := os.Getppid()
	if commandName(parent) != "go" {
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

// commandName returns the name of a process's program, or empty if it is unknown.
func commandName(pid int) string {
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
