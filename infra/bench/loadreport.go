package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

type loadReport struct {
	Machine          machine        `json:"machine"`
	Maximum          float64        `json:"maximumPerSecond"`
	Steady           phase          `json:"steady"`
	Overload         phase          `json:"overload"`
	GoroutinesBefore map[string]int `json:"goroutinesBefore"`
	GoroutinesAfter  map[string]int `json:"goroutinesAfter"`
	HalfDone         map[string]int `json:"halfDone"`
}

func (r loadReport) table(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\nEight callers got %.0f pairs of create and settle done a second, in the median of their turns.\n\n", r.Machine, r.Maximum)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tasked a second\tseconds\tdone\tcalls a second\tof eight callers'\tp50 ms\tp99 ms\trefused\tp50 ms\tp99 ms\tunsent\terrors\t")
	for i, p := range []phase{r.Steady, r.Overload} {
		name := []string{"steady", "overload"}[i]
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%d\t%.0f\t%.2f\t%.1f\t%.1f\t%d\t%.1f\t%.1f\t%d\t%d\t\n", name, p.Asked, p.Seconds, p.Done,
			p.CallRate, p.CallRate/(2*r.Maximum), p.P50Ms, p.P99Ms, p.Refused, p.R50Ms, p.R99Ms, p.Unsent, p.failed())
	}
	fmt.Fprintln(t, "\t\nsteady, of each function\tprocesses\tMiB after a minute\tat the end\tgrown\tgoroutines before\tafter\t")
	first, last := r.Steady.between()
	for _, name := range slices.Sorted(maps.Keys(last.Memory)) {
		grown := ""
		if before := first.Memory[name]; before > 0 {
			grown = fmt.Sprintf("%+.1f %%", 100*(float64(last.Memory[name])/float64(before)-1))
		}
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%.1f\t%s\t%d\t%d\t\n", name, last.Functions[name], mib(first.Memory[name]), mib(last.Memory[name]),
			grown, r.GoroutinesBefore[name], r.GoroutinesAfter[name])
	}
	fmt.Fprintf(t, "the runner\t1\t%.1f\t%.1f\t\t\t\t\n", mib(first.Runner), mib(last.Runner))
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nConnections to Postgres: %d after a minute, %d at the end.\n", first.Connections, last.Connections)
	for _, what := range slices.Sorted(maps.Keys(r.HalfDone)) {
		fmt.Fprintf(w, "%s: %d\n", what, r.HalfDone[what])
	}
	for _, p := range []phase{r.Steady, r.Overload} {
		for _, what := range slices.Sorted(maps.Keys(p.Errors)) {
			fmt.Fprintf(w, "%s: %d\n", what, p.Errors[what])
		}
	}
	return nil
}

// between returns the first sample after a minute, or the first of all, and the last.
func (p phase) between() (first, last sample) {
	for _, s := range p.Samples {
		if s.Seconds >= 60 && first.Seconds == 0 {
			first = s
		}
		last = s
	}
	if first.Seconds == 0 {
		first = p.Samples[0]
	}
	return first, last
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

// failed returns the number of pairs with an error other than a refusal.
func (p phase) failed() (n int) {
	for _, count := range p.Errors {
		n += count
	}
	return n
}
