package main

import (
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/flovyn/promises/shared/sweep"
)

// newDashboard shows, from top to bottom, what the callers see, the functions,
// the deadlines, and the database.
func newDashboard(parent constructs.Construct, s settings, m measures) {
	const minute = time.Minute
	dashboard := awscloudwatch.NewDashboard(parent, jsii.String("Dashboard"), &awscloudwatch.DashboardProps{
		DashboardName: inRegion(parent, s.stackName()),
	})
	row := func(widgets ...awscloudwatch.IWidget) { dashboard.AddWidgets(widgets...) }
	graph := func(title string, width float64, metrics ...awscloudwatch.IMetric) awscloudwatch.IWidget {
		return awscloudwatch.NewGraphWidget(&awscloudwatch.GraphWidgetProps{
			Title: jsii.String(title), Width: jsii.Number(width), Left: &metrics,
		})
	}
	each := func(of func(name string) awscloudwatch.IMetric) (all []awscloudwatch.IMetric) {
		for _, name := range m.names() {
			all = append(all, of(name))
		}
		return all
	}
	labelled := func(name, statistic string) *awscloudwatch.MetricOptions {
		o := options(statistic, minute)
		o.Label = jsii.String(name)
		return o
	}

	row(
		graph("HTTP requests", 8, m.api.MetricCount(options("Sum", minute)), m.api.MetricClientError(options("Sum", minute)),
			m.api.MetricServerError(options("Sum", minute))),
		graph("HTTP latency, ms", 8, m.api.MetricLatency(options("p50", minute)), m.api.MetricLatency(options("p99", minute))),
		graph("Dead letters", 8, m.failed.MetricApproximateNumberOfMessagesVisible(options("Maximum", minute))),
	)
	row(
		graph("Invocations", 12, each(func(name string) awscloudwatch.IMetric {
			return m.functions[name].MetricInvocations(labelled(name, "Sum"))
		})...),
		graph("p99 duration, ms", 12, each(func(name string) awscloudwatch.IMetric {
			return m.functions[name].MetricDuration(labelled(name, "p99"))
		})...),
	)
	row(
		graph("Errors", 12, each(func(name string) awscloudwatch.IMetric { return m.functions[name].MetricErrors(labelled(name, "Sum")) })...),
		graph("Throttles", 12, each(func(name string) awscloudwatch.IMetric {
			return m.functions[name].MetricThrottles(labelled(name, "Sum"))
		})...),
	)
	row(
		graph("Oldest overdue promise, s", 8, m.own("expire-promises", sweep.MetricOldestOverdue, "Maximum", minute)),
		graph("Deadlines recorded", 8, m.own("expire-promises", sweep.MetricPromisesExpired, "Sum", minute)),
		graph("Sweep errors, held settlements given up", 8, m.own("expire-promises", sweep.MetricSweepErrors, "Sum", minute), m.holdsExpired(minute)),
	)
	database := []awscloudwatch.IMetric{m.database.metrics.cpu}
	row(
		graph("Connections of RDS Proxy to Postgres", 8, m.ofProxy("DatabaseConnectionsCurrentlyBorrowed", minute),
			m.ofProxy("DatabaseConnectionsCurrentlySessionPinned", minute)),
		graph("Connections to RDS Proxy", 8, m.ofProxy("ClientConnections", minute)),
		graph("Postgres, CPU %", 8, database...),
	)
}
