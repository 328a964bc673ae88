//go:build !linux

package skip

import "os"

// goStderr opens the terminal, because these systems do not show which file the go
// command writes to. It returns nil if there is no terminal.
func goStderr() *os.File {
	out, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0)
	if err != nil {
		return nil
	}
	return out
}
