package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// A neighbourReport compares an honest tenant alone with the same tenant beside a hostile one.
type neighbourReport struct {
	Machine  machine                `json:"machine"`
	Honest   []comparison           `json:"honest"`
	Failures []string               `json:"failures"` // calls of the honest tenant that failed or were refused
	Hostile  map[string]map[int]int `json:"hostile"`  // for each attack, the number of answers by status; 0: no answer
}

// A comparison is one operation of the honest tenant, alone and beside the hostile one.
type comparison struct {
	Operation string  `json:"operation"`
	Calls     [2]int  `json:"calls"` // alone, beside
	AloneP50  float64 `json:"aloneP50Ms"`
	AloneP99  float64 `json:"aloneP99Ms"`
	BesideP50 float64 `json:"besideP50Ms"`
	BesideP99 float64 `json:"besideP99Ms"`
}

// ratio returns the p99 beside the hostile tenant divided by the p99 alone.
func (b comparison) ratio() float64 { return b.BesideP99 / b.AloneP99 }

func compare(alone, hostile *record) (rows []comparison) {
	for _, operation := range slices.Sorted(maps.Keys(alone.took)) {
		a, b := alone.took[operation], hostile.took[operation]
		slices.Sort(a)
		slices.Sort(b)
		rows = append(rows, comparison{
			Operation: operation, Calls: [2]int{len(a), len(b)},
			AloneP50: percentile(a, 50), AloneP99: percentile(a, 99), BesideP50: percentile(b, 50), BesideP99: percentile(b, 99),
		})
	}
	return rows
}

func (r neighbourReport) table(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", r.Machine)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "the honest tenant\tcalls alone\tp50 ms\tp99 ms\tbeside\tp50 ms\tp99 ms\tp99 to alone\t")
	for _, b := range r.Honest {
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%.1f\t%d\t%.1f\t%.1f\t%.1f\t\n",
			b.Operation, b.Calls[0], b.AloneP50, b.AloneP99, b.Calls[1], b.BesideP50, b.BesideP99, b.ratio())
	}
	fmt.Fprintf(t, "failed or refused\t\t\t\t%d\t\t\t\t\n", len(r.Failures))
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, attack := range slices.Sorted(maps.Keys(r.Hostile)) {
		fmt.Fprintf(w, "the hostile tenant's %s:", attack)
		for _, status := range slices.Sorted(maps.Keys(r.Hostile[attack])) {
			fmt.Fprintf(w, " %d with status %d", r.Hostile[attack][status], status)
		}
		fmt.Fprintln(w)
	}
	for i, failure := range r.Failures {
		if i == 20 {
			fmt.Fprintf(w, "and %d more\n", len(r.Failures)-i)
			break
		}
		fmt.Fprintln(w, failure)
	}
	return nil
}
