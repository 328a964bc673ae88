package main

import (
	"context"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/skip"
)

var operations = flag.Int("linearizable.operations", 800, "number of calls in each test named Linearizable")

// TestLinearizable runs many HTTP clients and records their calls. The history must be linearizable: there is one order of all calls, each
// taking effect between its start and its end, that the rules of shared/promise allow. Each workflow execution's log must agree with its
// promises. Meanwhile functions are killed, the database is stopped and killed, or connections are cut.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		skip.Now(t, "the functions' processes are found in /proc")
	}
	for _, c := range []struct {
		name      string
		fault     faultInjector
		minFaults int64 // the minimum number of faults
	}{
		{"undisturbed", noFault, 0},
		{"functions killed", killFunctions, 20},
		{"database stopped and killed", stopDatabase, 2},
		{"connections cut", cutConnections, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := startDatabase(t)
			r := startWith(t, d.url, []string{localBinary}).awaitReady(t)
			s := newSession(r)
			result := porcupine.Ok
			t.Cleanup(func() { // also if the test fails before the check
				if t.Failed() && result == porcupine.Ok {
					kept, err := os.MkdirTemp("", "linearizable-")
					require.NoError(t, err)
					t.Logf("the history: %s", s.write(t, kept))
				}
			})
			faultCount := s.runWithFault(t, *operations, c.fault, d, c.minFaults)
			worked := time.Since(s.begun)
			history := s.checkerHistory(t)
			lost := 0
			for _, o := range s.history {
				if o.Answer == nil {
					lost++
					answered := o.Status == http.StatusTooManyRequests || o.Status == http.StatusServiceUnavailable // as may happen on a busy machine
					require.True(t, answered || c.minFaults > 0, "an answer was lost without a fault: %v %d", o, o.Status)
				}
			}
			begun := time.Now()
			result = porcupine.CheckOperationsTimeout(linearizable, history, 2*time.Minute)
			t.Logf("%d operations on %d subjects in %.1f s, %d faults, %d answers lost; checked in %.2f s: %s",
				len(s.history), len(s.subjects), worked.Seconds(), faultCount, lost, time.Since(begun).Seconds(), result)
			if result != porcupine.Ok {
				kept, err := os.MkdirTemp("", "linearizable-")
				require.NoError(t, err)
				file, drawing, bad := s.keep(t, history, kept)
				require.FailNow(t, "not linearizable", "%s\nsubjects: %v\nthe history: %s\ndrawn: %s", result, bad, file, drawing)
			}
			for _, e := range s.finalStates {
				e.requireConsistentLog(t)
			}
		})
	}
}

// TestLinearizableDetectsOverwrites changes promise_settle so that a settlement overwrites an earlier one. The check must fail.
func TestLinearizableDetectsOverwrites(t *testing.T) {
	t.Parallel()
	d := startDatabase(t)
	r := startWith(t, d.url, []string{localBinary}).awaitReady(t)
	conn, err := pgx.Connect(t.Context(), d.url)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // nothing is lost with it
	var settle string
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT pg_get_functiondef('promise_settle'::REGPROC)").Scan(&settle))
	const again = "AND NOT resolved "
	require.Contains(t, settle, again)
	_, err = conn.Exec(t.Context(), strings.ReplaceAll(settle, again, "")+"; ALTER TABLE promise DISABLE TRIGGER promise_final")
	require.NoError(t, err)
	s := newSession(r)
	s.runWithFault(t, 2000, noFault, d, 0)
	history := s.checkerHistory(t)
	require.Equal(t, porcupine.Illegal, porcupine.CheckOperationsTimeout(linearizable, history, 2*time.Minute))
	kept, drawing, bad := s.keep(t, history, t.TempDir())
	require.FileExists(t, kept)
	require.FileExists(t, drawing)
	t.Logf("%d of %d subjects are not linearizable", len(bad), len(s.subjects))
}

// runWithFault lets the clients make the given number of calls while the fault occurs. They make more calls until at least atLeast faults have
// occurred and one of them has lost an answer. runWithFault returns the number of faults.
func (s *session) runWithFault(t *testing.T, calls int, f faultInjector, d *database, atLeast int64) int64 {
	t.Helper()
	faultCtx, stop := context.WithCancel(t.Context())
	var faultCount atomic.Int64
	var injector sync.WaitGroup
	injector.Go(func() { f(faultCtx, t, s.runner, d, &faultCount) })
	s.run(calls, func() bool {
		return faultCount.Load() >= atLeast && (atLeast == 0 || s.anyLost()) || t.Failed()
	})
	stop()
	injector.Wait()
	require.False(t, t.Failed())
	return faultCount.Load()
}

func (s *session) anyLost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.subjects, func(on *subject) bool { return on.lost > 0 })
}

// checkerHistory returns the history in the checker's form, which includes the final read of every promise.
func (s *session) checkerHistory(t *testing.T) []porcupine.Operation {
	t.Helper()
	s.answers(t, s.finish(t))
	require.Empty(t, s.faults)
	end := time.Since(s.begun)
	history := make([]porcupine.Operation, 0, len(s.history))
	for _, o := range s.history {
		if o.Answer == nil && !o.happened() {
			continue
		}
		h := porcupine.Operation{ClientId: o.Client, Input: o, Call: o.elapsed[0].Nanoseconds(), Return: o.elapsed[1].Nanoseconds()}
		if o.Answer == nil {
			h.Return = end.Nanoseconds()
		}
		history = append(history, h)
	}
	return history
}

// write writes the history as JSON, ordered by the start of the calls.
func (s *session) write(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "history.json")
	slices.SortFunc(s.history, func(a, b *operation) int { return int(a.elapsed[0] - b.elapsed[0]) })
	text, err := json.MarshalIndent(s.history, "", " ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, text, 0o600))
	return file
}

// keep writes the history and a drawing of the first subject that is not linearizable. It returns all such subjects.
func (s *session) keep(t *testing.T, history []porcupine.Operation, dir string) (file, drawing string, bad []int) {
	t.Helper()
	file, drawing = s.write(t, dir), filepath.Join(dir, "subject.html")
	for _, part := range linearizable.Partition(history) {
		result, info := porcupine.CheckOperationsVerbose(linearizable, part, 10*time.Second)
		if result == porcupine.Ok {
			continue
		}
		if len(bad) == 0 {
			require.NoError(t, porcupine.VisualizePath(linearizable, info, drawing))
			for _, h := range part {
				t.Logf("%12v %12v  client %d  %v", h.Input.(*operation).elapsed[0], time.Duration(h.Return), h.ClientId, h.Input)
			}
		}
		bad = append(bad, part[0].Input.(*operation).Subject)
	}
	return file, drawing, bad
}
