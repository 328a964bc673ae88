package lambda

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	maxTail = 4 << 10 // size of a log tail in the response to LogType=Tail
	maxLine = 64 << 10
)

// A lineWriter writes the lines of all environments one after another.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lineWriter) line(function string, text []byte) {
	if l.w == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := make([]byte, 0, len(function)+len(text)+4)
	b = append(b, '[')
	b = append(b, function...)
	b = append(b, "] "...)
	b = append(append(b, text...), '\n')
	l.w.Write(b) //nolint:errcheck // there is no other place to report it
}

// logs collects the output of one environment's process.
type logs struct {
	function string
	output   *lineWriter
	r        *os.File
	drains   chan chan struct{}
	ended    chan struct{} // closed at the end of the stream

	mu      sync.Mutex
	tail    []byte
	partial []byte
}

func newLogs(function string, output *lineWriter, r *os.File) *logs {
	l := &logs{function: function, output: output, r: r, drains: make(chan chan struct{}, 1), ended: make(chan struct{})}
	go l.read()
	return l
}

func (l *logs) read() {
	defer close(l.ended)
	defer l.flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := l.r.Read(buf)
		l.add(buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			l.r.SetReadDeadline(time.Time{}) //nolint:errcheck // the next Read returns the error
			l.readAvailable(buf)
			l.flush()
			close(<-l.drains)
		} else if err != nil {
			return
		}
	}
}

// readAvailable empties the pipe without waiting for more.
func (l *logs) readAvailable(buf []byte) {
	conn, err := l.r.SyscallConn()
	if err != nil {
		return
	}
	for n := 1; n > 0; {
		err := conn.Read(func(fd uintptr) bool {
			n, _ = syscall.Read(int(fd), buf)
			return true
		})
		if err != nil {
			return
		}
		if n > 0 {
			l.add(buf[:n])
		}
	}
}

// drain returns after all output that the process has written so far has been read.
// Only one goroutine may call it at a time.
func (l *logs) drain() {
	done := make(chan struct{})
	select {
	case l.drains <- done:
	case <-l.ended:
		return
	}
	l.r.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // if the pipe is closed, l.ended is closed too
	select {
	case <-done:
	case <-l.ended:
	}
}

func (l *logs) add(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.appendTail(p)
	l.partial = append(l.partial, p...)
	for {
		line, rest, found := bytes.Cut(l.partial, []byte{'\n'})
		if !found && len(l.partial) < maxLine {
			return
		}
		l.output.line(l.function, line)
		l.partial = rest
	}
}

func (l *logs) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.output.line(l.function, l.partial)
		l.partial = nil
	}
}

func (l *logs) appendTail(p []byte) {
	l.tail = append(l.tail, p...)
	if len(l.tail) > 4*maxTail {
		l.tail = append([]byte(nil), l.tail[len(l.tail)-maxTail:]...)
	}
}

// note adds a line of the platform (START, END, REPORT) to the tail. It is not part
// of the function's output.
func (l *logs) note(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.tail); n > 0 && l.tail[n-1] != '\n' {
		line = "\n" + line
	}
	l.appendTail([]byte(line))
}

// take returns the end of the log since the previous call of take.
func (l *logs) take() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tail
	l.tail = nil
	return t[max(0, len(t)-maxTail):]
}
