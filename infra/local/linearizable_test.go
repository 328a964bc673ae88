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

var operations = flag.Int("linearizable.operations", 800, "calls of each of the tests named Linearizable")

// What many clients were told over HTTP can be put into one order that the rules of shared/promise allow, in which every call
// takes effect between its beginning and its end; and each workflow execution's log tells the same. So it is while functions
// are killed, while the database is stopped and killed, and while connections are cut.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		skip.Now(t, "the functions' processes are found in /proc")
	}
	for _, c := range []struct {
		name   string
		fault  fault
		strike int64 // how often it is done at least
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
			t.Cleanup(func() { // also where it did not come to the check
				if t.Failed() && result == porcupine.Ok {
					kept, err := os.MkdirTemp("", "linearizable-")
					require.NoError(t, err)
					t.Logf("the history: %s", s.write(t, kept))
				}
			})
			struck := s.disturbed(t, *operations, c.fault, d, c.strike)
			worked := time.Since(s.begun)
			history := s.recorded(t)
			lost := 0
			for _, o := range s.history {
				if o.Answer == nil {
					lost++
					told := o.Status == http.StatusTooManyRequests || o.Status == http.StatusServiceUnavailable // as on a busy machine
					require.True(t, told || c.strike > 0, "an answer was lost by no fault: %v %d", o, o.Status)
				}
			}
			begun := time.Now()
			result = porcupine.CheckOperationsTimeout(linearizable, history, 2*time.Minute)
			t.Logf("%d operations on %d subjects in %.1f s, %d faults, %d answers lost; checked in %.2f s: %s",
				len(s.history), len(s.subjects), worked.Seconds(), struck, lost, time.Since(begun).Seconds(), result)
			if result != porcupine.Ok {
				kept, err := os.MkdirTemp("", "linearizable-")
				require.NoError(t, err)
				file, drawing, bad := s.keep(t, history, kept)
				require.FailNow(t, "not linearizable", "%s\nsubjects: %v\nthe history: %s\ndrawn: %s", result, bad, file, drawing)
			}
			for _, e := range s.ends {
				e.requireLog(t)
			}
		})
	}
}

// The test sees a settlement that the next one writes over.
func TestLinearizableCatches(t *testing.T) {
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
	s.disturbed(t, 2000, noFault, d, 0)
	history := s.recorded(t)
	require.Equal(t, porcupine.Illegal, porcupine.CheckOperationsTimeout(linearizable, history, 2*time.Minute))
	kept, drawing, bad := s.keep(t, history, t.TempDir())
	require.FileExists(t, kept)
	require.FileExists(t, drawing)
	t.Logf("%d of %d subjects are not linearizable", len(bad), len(s.subjects))
}

// disturbed has the clients make so many calls while the fault is at work, more if it has to strike more often or no answer
// was lost by it, and says how often it did.
func (s *session) disturbed(t *testing.T, calls int, f fault, d *database, atLeast int64) int64 {
	t.Helper()
	disturbing, stop := context.WithCancel(t.Context())
	var struck atomic.Int64
	var disturber sync.WaitGroup
	disturber.Go(func() { f(disturbing, t, s.runner, d, &struck) })
	s.run(calls, func() bool {
		return struck.Load() >= atLeast && (atLeast == 0 || s.anyLost()) || t.Failed()
	})
	stop()
	disturber.Wait()
	require.False(t, t.Failed())
	return struck.Load()
}

func (s *session) anyLost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.subjects, func(on *subject) bool { return on.lost > 0 })
}

// recorded is the history as the checker takes it, with what everybody is told in the end.
func (s *session) recorded(t *testing.T) []porcupine.Operation {
	t.Helper()
	s.answers(t, s.settleDown(t))
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

// write writes the history as JSON, in the order of the calls.
func (s *session) write(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "history.json")
	slices.SortFunc(s.history, func(a, b *operation) int { return int(a.elapsed[0] - b.elapsed[0]) })
	text, err := json.MarshalIndent(s.history, "", " ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, text, 0o600))
	return file
}

// keep writes the history, and draws that of the first subject which is not linearizable.
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
