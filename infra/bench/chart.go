package main

import (
	"fmt"
	"image/color"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	_ "gonum.org/v1/plot/vg/vgsvg" // the format of the file
)

// draw writes a chart of the ratios to the limit. Each operation has one bar for each number of clients.
func draw(rows []row, file string) error {
	p := plot.New()
	p.Title.Text = "Calls for one bare UPDATE of one row"
	p.Y.Label.Text = "ratio to the limit"
	p.Y.Min = 0
	p.Legend.Top = true
	var names, groups []string
	at := map[string]map[string]float64{}
	for _, r := range rows {
		name := fmt.Sprintf("%s (%d promises, %d in a workflow)", r.Operation, r.Promises, r.PerWorkflow)
		if r.database() == rows[0].database() {
			name = r.Operation
		}
		group := fmt.Sprintf("%d clients", r.Clients)
		if at[group] == nil {
			at[group] = map[string]float64{}
			groups = append(groups, group)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		at[group][name] = r.RatioToLimit
	}
	const width = 10
	for i, group := range groups {
		values := make(plotter.Values, len(names))
		for n, name := range names {
			values[n] = at[group][name]
		}
		bars, err := plotter.NewBarChart(values, vg.Points(width))
		if err != nil {
			return err
		}
		shade := uint8(220 - 180*(i+1)/len(groups))
		bars.Color = color.RGBA{R: shade / 2, G: shade, B: 200, A: 255}
		bars.LineStyle.Width = 0
		bars.Offset = vg.Points(width * (float64(i) - float64(len(groups)-1)/2))
		p.Add(bars)
		p.Legend.Add(group, bars)
	}
	p.NominalX(names...)
	p.X.Tick.Label.Rotation = 0.6
	p.X.Tick.Label.XAlign = -1
	p.X.Tick.Label.YAlign = -0.5
	p.Add(plotter.NewGrid())
	return p.Save(vg.Points(float64(120+len(names)*(len(groups)+2)*width)), 12*vg.Centimeter, file)
}
