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

// usage is the cost of operations besides time.
type usage struct {
	statements int64         // sent to Postgres by the calls of the operations themselves
	wal        int64         // bytes of write-ahead log
	function   time.Duration // CPU time of the processes that call Postgres: this one, or a runner and its functions
	postgres   time.Duration // CPU time of the server's processes
}

func (s usage) plus(t usage) usage {
	return usage{s.statements + t.statements, s.wal + t.wal, s.function + t.function, s.postgres + t.postgres}
}

func (s usage) minus(t usage) usage {
	return s.plus(usage{-t.statements, -t.wal, -t.function, -t.postgres})
}

// A meter reads the usage so far.
type meter struct {
	monitor       *pgxpool.Pool // connects to the measured database, only for the meter
	postmaster    *process.Process
	callers       *process.Process
	singleProcess bool              // excludes the processes that callers has started
	statements    *statementCounter // nil if another process sends them
}

// newMeter returns a meter of the database. The caller sets callers.
func newMeter(ctx context.Context, db *dataset) (meter, error) {
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

// read returns the usage so far. At the end of a turn it reads in the reverse order of the beginning, so that the cost of
// reading Postgres's usage is not counted.
func (m meter) read(ctx context.Context, end bool) (s usage, err error) {
	callers := func() (err error) {
		s.function, err = cpuTime(ctx, m.callers, m.singleProcess)
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

// cpuTime returns the CPU time of a process and, unless alone is set, of the processes that it has started.
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
		if parent, err := child.PpidWithContext(ctx); err == nil { // else the child has just ended
			children[parent] = append(children[parent], child)
		}
	}
	used, err := cpuTimeOf(ctx, p)
	if err != nil {
		return 0, err
	}
	used += cpuTimeOfEndedChildren(p.Pid)
	for family := children[p.Pid]; len(family) > 0; family = family[1:] {
		if own, err := cpuTimeOf(ctx, family[0]); err == nil {
			used += own + cpuTimeOfEndedChildren(family[0].Pid)
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

// cpuTimeOfEndedChildren returns the CPU time of the ended children of a process. It returns 0 on a system without /proc.
func cpuTimeOfEndedChildren(pid int32) time.Duration {
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

// A statementCounter counts the statements that operations send on a pool, including the begin and commit of a transaction.
// It leaves out the statements that the pool sends on a new connection, because their number depends on the machine.
type statementCounter struct{ n atomic.Int64 }

// poolSetup marks the context of statements that a pool sends on a new connection.
type poolSetup struct{}

func (c *statementCounter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if ctx.Value(poolSetup{}) == nil {
		c.n.Add(1)
	}
	return ctx
}

func (c *statementCounter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
