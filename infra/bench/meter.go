package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/shirou/gopsutil/v4/process"
)

// spent is what operations cost besides time.
type spent struct {
	statements int64         // that the operations' own calls have sent Postgres
	wal        int64         // bytes of write-ahead log
	function   time.Duration // CPU of the processes that call Postgres: this one, or a runner and its functions
	postgres   time.Duration // CPU of the server's processes
}

func (s spent) plus(t spent) spent {
	return spent{s.statements + t.statements, s.wal + t.wal, s.function + t.function, s.postgres + t.postgres}
}

func (s spent) minus(t spent) spent {
	return s.plus(spent{-t.statements, -t.wal, -t.function, -t.postgres})
}

// meter reads what has been spent.
type meter struct {
	monitor    *pgxpool.Pool // of the measured database, used for nothing else
	postmaster *process.Process
	callers    *process.Process
	alone      bool     // callers is one process, and what it has started are not counted
	statements *counter // nil where others than this process send them
}

// newMeter makes the meter of a database, without its callers.
func newMeter(ctx context.Context, db *loaded) (meter, error) {
	monitor, err := db.pool(ctx, 1, nil)
	if err != nil {
		return meter{}, err
	}
	var backend int32
	if err := monitor.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&backend); err != nil {
		return meter{}, err
	}
	server, err := process.NewProcess(backend)
	if err != nil {
		return meter{}, err
	}
	postmaster, err := server.ParentWithContext(ctx)
	return meter{monitor: monitor, postmaster: postmaster}, err
}

// read reads what has been spent so far: at the end of a turn in another order than at its begin, so that what it takes to
// find out what Postgres has used is not counted.
func (m meter) read(ctx context.Context, end bool) (s spent, err error) {
	callers := func() (err error) {
		s.function, err = cpuTime(ctx, m.callers, m.alone)
		return err
	}
	database := func() (err error) {
		if m.statements != nil {
			s.statements = m.statements.n.Load()
		}
		if s.postgres, err = cpuTime(ctx, m.postmaster, false); err != nil {
			return err
		}
		return m.monitor.QueryRow(ctx, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::BIGINT").Scan(&s.wal)
	}
	if end {
		return s, errors.Join(callers(), database())
	}
	return s, errors.Join(database(), callers())
}

// cpuTime is what a process has used, and, unless it is alone, those that it has started.
func cpuTime(ctx context.Context, p *process.Process, alone bool) (time.Duration, error) {
	if alone {
		return cpuTimeOf(ctx, p)
	}
	all, err := process.PidsWithContext(ctx)
	if err != nil {
		return 0, fmt.Errorf("CPU time: %w", err)
	}
	children := map[int32][]*process.Process{}
	for _, pid := range all {
		child := &process.Process{Pid: pid}
		if parent, err := child.PpidWithContext(ctx); err == nil { // it may just have ended, as below
			children[parent] = append(children[parent], child)
		}
	}
	used, err := cpuTimeOf(ctx, p)
	if err != nil {
		return 0, err
	}
	used += ofEnded(p.Pid)
	for family := children[p.Pid]; len(family) > 0; family = family[1:] {
		if of, err := cpuTimeOf(ctx, family[0]); err == nil {
			used += of + ofEnded(family[0].Pid)
		}
		family = append(family, children[family[0].Pid]...)
	}
	return used, nil
}

func cpuTimeOf(ctx context.Context, p *process.Process) (time.Duration, error) {
	times, err := p.TimesWithContext(ctx)
	if err != nil {
		return 0, fmt.Errorf("CPU time: %w", err)
	}
	return time.Duration((times.User + times.System) * float64(time.Second)), nil
}

// ofEnded is the CPU time of the processes that a process has started and that have ended: 0 where the system does not tell.
func ofEnded(pid int32) time.Duration {
	const user, system, tick = 13, 14, time.Second / 100 // fields after the name; proc_pid_stat(5), sysconf(3)
	text, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/stat")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var ticks time.Duration
	for _, i := range []int{user, system} {
		n, _ := strconv.Atoi(fields[i])
		ticks += time.Duration(n)
	}
	return ticks * tick
}

// counter counts the statements that the operations send on a pool: those of a transaction, and its begin and commit. It
// does not count what the pool sends on a new connection: a pool connects when it has to, which depends on the machine.
type counter struct{ n atomic.Int64 }

// ofPool marks the context of what a pool sends on a new connection.
type ofPool struct{}

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if ctx.Value(ofPool{}) == nil {
		c.n.Add(1)
	}
	return ctx
}

func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
