package main

import (
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/routes"
	"github.com/flovyn/promises/shared/sweep"
)

// newDashboard creates the dashboard. From top to bottom it shows the HTTP API, the
// functions, the deadlines, the deliveries, the webhooks and the database.
func newDashboard(parent constructs.Construct, s settings, m monitored) {
	const minute = time.Minute
	dashboard := awscloudwatch.NewDashboard(parent, jsii.String("Dashboard"), &awscloudwatch.DashboardProps{
		DashboardName: withRegion(parent, s.stackName()),
	})
	row := func(widgets ...awscloudwatch.IWidget) { dashboard.AddWidgets(widgets...) }
	each := func(metric func(function string) awscloudwatch.IMetric) (all []awscloudwatch.IMetric) {
		for _, name := range m.functionNames() {
			all = append(all, metric(name))
		}
		return all
	}
	labelled := func(name, statistic string) *awscloudwatch.MetricOptions {
		o := metricOptions(statistic, minute)
		o.Label = jsii.String(name)
		return o
	}

	row(
		graph("HTTP requests", 8, m.api.MetricCount(metricOptions("Sum", minute)), m.api.MetricClientError(metricOptions("Sum", minute)),
			m.api.MetricServerError(metricOptions("Sum", minute))),
		graph("HTTP latency, ms", 8, m.api.MetricLatency(metricOptions("p50", minute)), m.api.MetricLatency(metricOptions("p99", minute))),
		graph("Dead letters", 8, m.deadLetters.MetricApproximateNumberOfMessagesVisible(metricOptions("Maximum", minute))),
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
		graph("Oldest overdue promise, s", 8, m.functionMetric("expire-promises", sweep.MetricOldestOverdue, "Maximum", minute)),
		graph("Deadlines recorded", 8, m.functionMetric("expire-promises", sweep.MetricPromisesExpired, "Sum", minute)),
		graph("Sweep errors, early settlements expired", 8, m.functionMetric("expire-promises", sweep.MetricSweepErrors, "Sum", minute), m.earlyExpired(minute)),
	)
	row(
		graph("Oldest due delivery, s", 8, m.relayMetric(delivery.MetricOldestDue, "Maximum", minute)),
		graph("Deliveries, failed attempts", 8, m.relaySum(delivery.MetricDelivered), m.relaySum(delivery.MetricFailed)),
		graph("Dead deliveries, errors, relays at work", 8, m.relaySum(delivery.MetricDeadDeliveries), m.relaySum(delivery.MetricRelayErrors), m.relaySum(delivery.MetricRelayWorking)),
	)
	row(m.webhookGraphs()...)
	row(
		graph("Connections of RDS Proxy to Postgres", 8, m.proxyMetric("DatabaseConnectionsCurrentlyBorrowed", minute),
			m.proxyMetric("DatabaseConnectionsCurrentlySessionPinned", minute)),
		graph("Connections to RDS Proxy", 8, m.proxyMetric("ClientConnections", minute)),
		graph("Postgres, CPU %", 8, m.database.metrics.cpu),
	)
}

func graph(title string, width float64, metrics ...awscloudwatch.IMetric) awscloudwatch.IWidget {
	return awscloudwatch.NewGraphWidget(&awscloudwatch.GraphWidgetProps{
		Title: jsii.String(title), Width: jsii.Number(width), Left: &metrics,
	})
}

// webhookGraphs returns the graphs of the route that receives webhooks.
func (m monitored) webhookGraphs() []awscloudwatch.IWidget {
	const minute = time.Minute
	var route routes.Route
	for _, r := range routes.HTTP {
		if r.Function == "receive-webhook" {
			route = r
		}
	}
	return []awscloudwatch.IWidget{
		graph("Webhooks, errors", 8, m.routeMetric(route, "Count", "Sum", "Webhooks", minute), m.routeMetric(route, "4xx", "Sum", "4xx", minute),
			m.routeMetric(route, "5xx", "Sum", "5xx", minute)),
		graph("Webhook latency, ms", 8, m.routeMetric(route, "Latency", "p50", "p50", minute), m.routeMetric(route, "Latency", "p99", "p99", minute)),
		graph("Webhooks held, rules failed, silent sources", 8, m.functionMetric("receive-webhook", "WebhooksHeld", "Sum", minute),
			m.functionMetric("receive-webhook", "WebhookRulesFailed", "Sum", minute),
			m.functionMetric("expire-promises", sweep.MetricSourcesSilent, "Maximum", minute)),
	}
}

// relaySum returns the sum of a metric of relay-deliveries in each minute.
func (m monitored) relaySum(name string) awscloudwatch.IMetric {
	return m.relayMetric(name, "Sum", time.Minute)
}
