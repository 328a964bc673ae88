//go:build !linux

package skip

import "os"

// goStderr is the terminal, where the system does not tell what the go command
// writes to.
func goStderr() *os.File {
	out, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0)
	if err != nil {
		return nil
	}
	return out
}
