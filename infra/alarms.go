package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatchactions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssnssubscriptions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssqs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/routes"
	"github.com/flovyn/promises/shared/sweep"
	"github.com/flovyn/promises/shared/telemetry"
)

// An alarm is a condition that an operator must act on. README.md gives its meaning
// and the action.
type alarm struct {
	name                string
	metric              awscloudwatch.IMetric
	threshold           float64
	breachesBelow       bool                           // the alarm goes off below the threshold, not above it
	periods, datapoints float64                        // how many of the last periods must breach; 1 of 1 if unset
	missingData         awscloudwatch.TreatMissingData // not breaching if unset; with missing, mail is also sent when the data stops
}

func newAlarms(parent constructs.Construct, s settings, m monitored) {
	scope := constructs.NewConstruct(parent, jsii.String("Alarms"))
	topic := newAlarmTopic(scope, s)
	for _, a := range m.alarms(s) {
		comparison := awscloudwatch.ComparisonOperator_GREATER_THAN_THRESHOLD
		if a.breachesBelow {
			comparison = awscloudwatch.ComparisonOperator_LESS_THAN_THRESHOLD
		}
		if a.periods == 0 {
			a.periods, a.datapoints = 1, 1
		}
		if a.missingData == "" {
			a.missingData = awscloudwatch.TreatMissingData_NOT_BREACHING
		}
		made := awscloudwatch.NewAlarm(scope, jsii.String(a.name), &awscloudwatch.AlarmProps{
			AlarmName:        jsii.String(s.stackName() + "-" + a.name),
			AlarmDescription: jsii.String("For the meaning and the action see infra/README.md, section Alarms"),
			Metric:           a.metric, Threshold: jsii.Number(a.threshold), ComparisonOperator: comparison,
			EvaluationPeriods: jsii.Number(a.periods), DatapointsToAlarm: jsii.Number(a.datapoints), TreatMissingData: a.missingData,
		})
		if topic != nil {
			action := awscloudwatchactions.NewSnsAction(topic)
			made.AddAlarmAction(action)
			made.AddOkAction(action)
			if a.missingData == awscloudwatch.TreatMissingData_MISSING {
				made.AddInsufficientDataAction(action)
			}
		}
	}
}

// newAlarmTopic returns the topic that alarms publish to, or nil without an address.
func newAlarmTopic(scope constructs.Construct, s settings) awssns.ITopic {
	if s.AlarmEmail == "" {
		return nil
	}
	key := awskms.NewKey(scope, jsii.String("Key"), &awskms.KeyProps{
		Description: jsii.String("Encrypts the alarms of " + s.stackName()), EnableKeyRotation: jsii.Bool(true),
		RemovalPolicy: awscdk.RemovalPolicy_DESTROY,
	})
	topic := awssns.NewTopic(scope, jsii.String("Topic"), &awssns.TopicProps{MasterKey: key, EnforceSSL: jsii.Bool(true)})
	allowAlarms(key, topic)
	topic.AddSubscription(awssnssubscriptions.NewEmailSubscription(jsii.String(s.AlarmEmail), nil))
	return topic
}

// allowAlarms lets the alarms of this account publish to the topic. CloudWatch cannot
// use the default key of SNS. A topic with its own policy loses the default policy,
// which lets the account's services publish.
func allowAlarms(key awskms.Key, topic awssns.Topic) {
	cloudWatch := &[]awsiam.IPrincipal{awsiam.NewServicePrincipal(jsii.String("cloudwatch.amazonaws.com"), nil)}
	stack := awscdk.Stack_Of(topic)
	topic.AddToResourcePolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Sid: jsii.String("Alarms"), Principals: cloudWatch, Actions: jsii.Strings("sns:Publish"), Resources: &[]*string{topic.TopicArn()},
		Conditions: &map[string]any{"StringEquals": map[string]any{"aws:SourceAccount": stack.Account()}},
	}))
	// CloudWatch calls KMS itself, with the topic's ARN as encryption context. The key's
	// policy cannot name the topic, because the topic already refers to the key.
	topics := stack.FormatArn(&awscdk.ArnComponents{Service: jsii.String("sns"), Resource: jsii.String("*"), ArnFormat: awscdk.ArnFormat_NO_RESOURCE_NAME})
	key.AddToResourcePolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Sid: jsii.String("Alarms"), Principals: cloudWatch, Actions: jsii.Strings("kms:Decrypt", "kms:GenerateDataKey*"), Resources: jsii.Strings("*"),
		Conditions: &map[string]any{"ArnLike": map[string]any{"kms:EncryptionContext:aws:sns:topicArn": topics}},
	}), nil)
}

// monitored holds the resources whose metrics the alarms and the dashboard show.
type monitored struct {
	functions   map[string]awslambda.Function
	api         api
	proxy       proxy
	database    postgres
	deadLetters awssqs.IQueue
}

// databaseMetrics holds the metrics that differ between RDS and Aurora.
type databaseMetrics struct {
	cpu           awscloudwatch.IMetric
	lowMetric     awscloudwatch.IMetric // nil if the database has no such metric
	lowThreshold  float64
	lowAlarm      string
	highMetric    awscloudwatch.IMetric
	highThreshold float64
	highAlarm     string
}

func metricOptions(statistic string, period time.Duration) *awscloudwatch.MetricOptions {
	return &awscloudwatch.MetricOptions{
		Statistic: jsii.String(statistic), Period: awscdk.Duration_Seconds(jsii.Number(period.Seconds())),
	}
}

// functionMetric returns a metric that the function itself writes.
func (m monitored) functionMetric(function, name, statistic string, period time.Duration) awscloudwatch.IMetric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String(telemetry.Namespace), MetricName: jsii.String(name),
		DimensionsMap: &map[string]*string{"Function": m.functions[function].FunctionName()},
		Statistic:     jsii.String(statistic), Period: awscdk.Duration_Seconds(jsii.Number(period.Seconds())),
	})
}

func (m monitored) relayMetric(name, statistic string, period time.Duration) awscloudwatch.IMetric {
	return m.functionMetric("relay-deliveries", name, statistic, period)
}

// proxyMetric returns the sum of a metric of RDS Proxy over all of its instances.
func (m monitored) proxyMetric(name string, period time.Duration) awscloudwatch.IMetric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String("AWS/RDS"), MetricName: jsii.String(name),
		DimensionsMap: &map[string]*string{"ProxyName": m.proxy.DbProxyName()},
		Statistic:     jsii.String("Sum"), Period: awscdk.Duration_Seconds(jsii.Number(period.Seconds())),
	})
}

// routeMetric returns a metric of API Gateway for one route. The stage writes these
// metrics because DetailedMetricsEnabled is set.
// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-metrics.html
func (m monitored) routeMetric(route routes.Route, name, statistic, label string, period time.Duration) awscloudwatch.IMetric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String("AWS/ApiGateway"), MetricName: jsii.String(name), Label: jsii.String(label),
		DimensionsMap: &map[string]*string{
			"ApiId": m.api.ApiId(), "Stage": m.api.stage.StageName(), "Method": jsii.String(route.Method), "Resource": jsii.String(route.Path),
		},
		Statistic: jsii.String(statistic), Period: awscdk.Duration_Seconds(jsii.Number(period.Seconds())),
	})
}

func mathExpression(expression, label string, period time.Duration, metrics map[string]awscloudwatch.IMetric) awscloudwatch.IMetric {
	return awscloudwatch.NewMathExpression(&awscloudwatch.MathExpressionProps{
		Expression: jsii.String(expression), Label: jsii.String(label), UsingMetrics: &metrics,
		Period: awscdk.Duration_Seconds(jsii.Number(period.Seconds())),
	})
}

// earlyExpired counts the discarded early settlements. The sweep finds most of them,
// because they expire. A create discards one that arrived after its deadline or has
// expired, and a function that stores one replaces an expired one.
func (m monitored) earlyExpired(period time.Duration) awscloudwatch.IMetric {
	metrics := map[string]awscloudwatch.IMetric{}
	var terms []string
	for i, name := range []string{"create-promise", "expire-promises", "reject", "resolve", "resolve-by-key"} {
		id := fmt.Sprintf("m%d", i)
		metrics[id] = m.functionMetric(name, sweep.MetricEarlyExpired, "Sum", period)
		terms = append(terms, "FILL("+id+", 0)")
	}
	return mathExpression(strings.Join(terms, " + "), "Early settlements expired", period, metrics)
}

func (m monitored) alarms(s settings) []alarm {
	const minute, five = time.Minute, 5 * time.Minute
	all := append(m.functionAlarms(),
		alarm{
			name: "api-errors", threshold: 1, periods: 3, datapoints: 2,
			metric: mathExpression("100 * failed / requests", "5xx, %", five, map[string]awscloudwatch.IMetric{
				"failed": m.api.MetricServerError(metricOptions("Sum", five)), "requests": m.api.MetricCount(metricOptions("Sum", five)),
			}),
		},
		// If the sweep or the relay stops, no data arrives: the alarm changes to
		// INSUFFICIENT_DATA. Every new alarm starts in that state, and CloudWatch mails
		// only a change of state, so a new stage sends no mail. If missing data breached, the
		// alarm would go off at its first evaluation, whatever the number of periods.
		// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
		alarm{
			name: "overdue", metric: m.functionMetric("expire-promises", sweep.MetricOldestOverdue, "Maximum", minute), threshold: 30, periods: 5, datapoints: 3,
			missingData: awscloudwatch.TreatMissingData_MISSING,
		},
		alarm{
			name: "relay-stopped", metric: m.relayMetric(delivery.MetricRelayWorking, "Sum", minute), threshold: 1, breachesBelow: true, periods: 5, datapoints: 5,
			missingData: awscloudwatch.TreatMissingData_MISSING,
		},
		alarm{name: "relay-errors", metric: m.relayMetric(delivery.MetricRelayErrors, "Sum", five), periods: 3, datapoints: 2},
		alarm{name: "deliveries-late", metric: m.relayMetric(delivery.MetricOldestDue, "Maximum", minute), threshold: 300, periods: 5, datapoints: 3},
		alarm{name: "deliveries-dead", metric: m.relayMetric(delivery.MetricDeadDeliveries, "Sum", five)},
		alarm{name: "sweep-errors", metric: m.functionMetric("expire-promises", sweep.MetricSweepErrors, "Sum", five), periods: 3, datapoints: 2},
		// A source verified webhooks within a day and verifies none any more. Usually its
		// secret was changed on one side alone.
		alarm{name: "webhooks-silent", metric: m.functionMetric("expire-promises", sweep.MetricSourcesSilent, "Maximum", five), periods: 3, datapoints: 3},
		alarm{name: "holds-expired", metric: m.earlyExpired(five)},
		alarm{name: "dead-letters", metric: m.deadLetters.MetricApproximateNumberOfMessagesVisible(metricOptions("Maximum", minute))},
		alarm{
			name: "proxy-busy", metric: m.proxyMetric("DatabaseConnectionsCurrentlyBorrowed", minute), periods: 5, datapoints: 3,
			threshold: 0.8 * float64(proxyConnections(s)),
		},
		alarm{name: "proxy-pinned", metric: m.proxyMetric("DatabaseConnectionsCurrentlySessionPinned", minute), threshold: 10, periods: 15, datapoints: 15},
		alarm{name: "proxy-refused", metric: m.proxyMetric("ClientConnectionsSetupFailedAuth", five)},
		alarm{name: "database-cpu", metric: m.database.metrics.cpu, threshold: 80, periods: 3, datapoints: 3},
		alarm{name: m.database.metrics.highAlarm, metric: m.database.metrics.highMetric, threshold: m.database.metrics.highThreshold, periods: 3, datapoints: 3},
	)
	if low := m.database.metrics; low.lowMetric != nil {
		all = append(all, alarm{name: low.lowAlarm, metric: low.lowMetric, threshold: low.lowThreshold, breachesBelow: true, periods: 3, datapoints: 3})
	}
	return all
}

// functionAlarms returns the alarms of each function: errors, slow, throttled.
func (m monitored) functionAlarms() []alarm {
	const five = 5 * time.Minute
	var all []alarm
	for _, f := range routes.Functions {
		lambda := m.functions[f.Name]
		// A rejected direct invoke (400, 404, 409) counts as a function error too.
		errors := alarm{
			name: f.Name + "-errors", threshold: 5, periods: 3, datapoints: 3,
			metric: mathExpression("100 * errors / invocations", "Errors, %", five, map[string]awscloudwatch.IMetric{
				"errors": lambda.MetricErrors(metricOptions("Sum", five)), "invocations": lambda.MetricInvocations(metricOptions("Sum", five)),
			}),
		}
		slow := alarm{name: f.Name + "-slow", metric: lambda.MetricDuration(metricOptions("p99", five)), threshold: 1000, periods: 3, datapoints: 3}
		if slices.Contains(routes.Waiting, f.Name) || f.Name == "manage-integrations" { // a call lasts up to 25 s
			slow.threshold = 26_000
		}
		switch f.Name {
		// They may run close to their timeout, and no outside caller sends them bad input.
		case "expire-promises", "migrate", "relay-deliveries", "send-deliveries":
			slow.threshold = 0.95 * float64(f.Timeout.Milliseconds())
			slow.periods, slow.datapoints = 1, 1
			errors = alarm{name: errors.name, metric: lambda.MetricErrors(metricOptions("Sum", five))}
		}
		all = append(all, errors, slow, alarm{name: f.Name + "-throttled", metric: lambda.MetricThrottles(metricOptions("Sum", five))})
	}
	return all
}

// functionNames returns the names in order, so that each synthesis writes the same template.
func (m monitored) functionNames() []string { return slices.Sorted(maps.Keys(m.functions)) }
