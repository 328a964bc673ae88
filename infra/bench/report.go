package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/host"
)

// A row is one operation at one number of clients.
type row struct {
	Operation     string  `json:"operation"`
	Promises      int     `json:"promises"`    // in the database at the start
	PerWorkflow   int     `json:"perWorkflow"` // promises in each workflow execution
	Clients       int     `json:"clients"`
	Calls         int     `json:"calls"`
	OpsPerSecond  float64 `json:"opsPerSecond"`
	P50Ms         float64 `json:"p50Ms"`
	P95Ms         float64 `json:"p95Ms"`
	P99Ms         float64 `json:"p99Ms"`
	RatioToLimit  float64 `json:"ratioToLimit"`
	RatioToFirst  float64 `json:"ratioToFirst"`
	Statements    float64 `json:"statements"` // per call, like the three fields below
	WALBytes      float64 `json:"walBytes"`
	FunctionCPUMs float64 `json:"functionCpuMs"`
	PostgresCPUMs float64 `json:"postgresCpuMs"`
}

type report struct {
	Machine machine `json:"machine"`
	Rows    []row   `json:"rows"`
}

// machine describes the machine of a measurement.
type machine struct {
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	Kernel   string `json:"kernel"`
	Go       string `json:"go"`
	Postgres string `json:"postgres"`
	Buffers  string `json:"sharedBuffers"` // of Postgres
	Date     string `json:"date"`
}

func thisMachine(ctx context.Context, c *cluster) machine {
	m := machine{Cores: runtime.NumCPU(), Go: strings.TrimPrefix(runtime.Version(), "go"), Date: time.Now().UTC().Format(time.DateOnly)}
	if processors, err := cpu.InfoWithContext(ctx); err == nil && len(processors) > 0 {
		m.CPU = processors[0].ModelName
	}
	m.Kernel, _ = host.KernelVersionWithContext(ctx)
	if conn, err := pgx.Connect(ctx, c.server.URL()); err == nil {
		m.Postgres = conn.PgConn().ParameterStatus("server_version")
		_ = conn.QueryRow(ctx, "SHOW shared_buffers").Scan(&m.Buffers)
		_ = conn.Close(ctx)
	}
	return m
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, kernel %s, Go %s, Postgres %s with %s of shared memory, %s",
		m.CPU, m.Cores, m.Kernel, m.Go, m.Postgres, m.Buffers, m.Date)
}

func (r report) table(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", r.Machine)
	growth := slices.ContainsFunc(r.Rows, func(other row) bool { return other.database() != r.Rows[0].database() })
	ofFirst := ""
	if growth {
		ofFirst = "of the first\t"
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "promises\tin a workflow\tclients\toperation\ta second\tof limit\t"+ofFirst+
		"p50 ms\tp95 ms\tp99 ms\tstatements\tWAL bytes\tfunction CPU ms\tPostgres CPU ms\t")
	for _, r := range r.Rows {
		if growth {
			ofFirst = fmt.Sprintf("%.2f\t", r.RatioToFirst)
		}
		fmt.Fprintf(t, "%d\t%d\t%d\t%s\t%.0f\t%.2f\t%s%.2f\t%.2f\t%.2f\t%.1f\t%.0f\t%.3f\t%.3f\t\n", r.Promises, r.PerWorkflow, r.Clients,
			r.Operation, r.OpsPerSecond, r.RatioToLimit, ofFirst, r.P50Ms, r.P95Ms, r.P99Ms, r.Statements, r.WALBytes, r.FunctionCPUMs, r.PostgresCPUMs)
	}
	return t.Flush()
}

// database identifies the dataset that the row was measured in.
func (r row) database() [2]int { return [2]int{r.Promises, r.PerWorkflow} }

// progress is a line on the terminal that each call of say replaces.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	begun time.Time
	wide  int
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := fmt.Sprintf("%4.0f s  ", time.Since(p.begun).Seconds()) + fmt.Sprintf(format, args...)
	fmt.Fprintf(p.out, "\r%-*s", p.wide, line)
	p.wide = len(line)
}

// done ends the line.
func (p *progress) done() { fmt.Fprintln(p.out) }

// output keeps the output of a process.
type output struct {
	mu   sync.Mutex
	text []byte
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	return len(p), nil
}

// Len returns the number of bytes so far. After returns the bytes after the first n.
func (o *output) Len() int { return len(o.After(0)) }

func (o *output) After(n int) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text[n:]
}
