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

	"github.com/flovyn/promises/shared/routes"
	"github.com/flovyn/promises/shared/sweep"
	"github.com/flovyn/promises/shared/telemetry"
)

// alarm is one thing that somebody must look at. README.md says of each what it
// means and what to do.
type alarm struct {
	name      string
	metric    awscloudwatch.IMetric
	above     float64
	below     bool                           // the other way round: goes off below the value
	of, count float64                        // count of the last of periods; 1 of 1 if unset
	silence   awscloudwatch.TreatMissingData // not breaching if unset; missing: silence is told, too
}

func newAlarms(parent constructs.Construct, s settings, m measures) {
	scope := constructs.NewConstruct(parent, jsii.String("Alarms"))
	topic := newAlarmTopic(scope, s)
	for _, a := range m.alarms(s) {
		comparison := awscloudwatch.ComparisonOperator_GREATER_THAN_THRESHOLD
		if a.below {
			comparison = awscloudwatch.ComparisonOperator_LESS_THAN_THRESHOLD
		}
		if a.of == 0 {
			a.of, a.count = 1, 1
		}
		if a.silence == "" {
			a.silence = awscloudwatch.TreatMissingData_NOT_BREACHING
		}
		made := awscloudwatch.NewAlarm(scope, jsii.String(a.name), &awscloudwatch.AlarmProps{
			AlarmName:        jsii.String(s.stackName() + "-" + a.name),
			AlarmDescription: jsii.String("See infra/README.md, Alarms"),
			Metric:           a.metric, Threshold: jsii.Number(a.above), ComparisonOperator: comparison,
			EvaluationPeriods: jsii.Number(a.of), DatapointsToAlarm: jsii.Number(a.count), TreatMissingData: a.silence,
		})
		if topic != nil {
			action := awscloudwatchactions.NewSnsAction(topic)
			made.AddAlarmAction(action)
			made.AddOkAction(action)
			if a.silence == awscloudwatch.TreatMissingData_MISSING {
				made.AddInsufficientDataAction(action)
			}
		}
	}
}

// newAlarmTopic is nil where nobody is to be told.
func newAlarmTopic(scope constructs.Construct, s settings) awssns.ITopic {
	if s.AlarmEmail == "" {
		return nil
	}
	key := awskms.NewKey(scope, jsii.String("Key"), &awskms.KeyProps{
		Description: jsii.String("The alarms of " + s.stackName()), EnableKeyRotation: jsii.Bool(true),
		RemovalPolicy: awscdk.RemovalPolicy_DESTROY,
	})
	topic := awssns.NewTopic(scope, jsii.String("Topic"), &awssns.TopicProps{MasterKey: key, EnforceSSL: jsii.Bool(true)})
	allowAlarms(key, topic)
	topic.AddSubscription(awssnssubscriptions.NewEmailSubscription(jsii.String(s.AlarmEmail), nil))
	return topic
}

// allowAlarms lets the alarms of this account publish to the topic. SNS's own key
// would not let CloudWatch in, and a topic with a policy of its own loses the one
// by which SNS lets in the account's services.
func allowAlarms(key awskms.Key, topic awssns.Topic) {
	cloudWatch := &[]awsiam.IPrincipal{awsiam.NewServicePrincipal(jsii.String("cloudwatch.amazonaws.com"), nil)}
	stack := awscdk.Stack_Of(topic)
	topic.AddToResourcePolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Sid: jsii.String("Alarms"), Principals: cloudWatch, Actions: jsii.Strings("sns:Publish"), Resources: &[]*string{topic.TopicArn()},
		Conditions: &map[string]any{"StringEquals": map[string]any{"aws:SourceAccount": stack.Account()}},
	}))
	// CloudWatch calls KMS itself, with the topic's ARN as encryption context. The key
	// cannot name the topic, which names the key.
	topics := stack.FormatArn(&awscdk.ArnComponents{Service: jsii.String("sns"), Resource: jsii.String("*"), ArnFormat: awscdk.ArnFormat_NO_RESOURCE_NAME})
	key.AddToResourcePolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Sid: jsii.String("Alarms"), Principals: cloudWatch, Actions: jsii.Strings("kms:Decrypt", "kms:GenerateDataKey*"), Resources: jsii.Strings("*"),
		Conditions: &map[string]any{"ArnLike": map[string]any{"kms:EncryptionContext:aws:sns:topicArn": topics}},
	}), nil)
}

// measures is where the alarms and the dashboard find what there is to see.
type measures struct {
	functions map[string]awslambda.Function
	api       api
	proxy     proxy
	database  postgres
	failed    awssqs.IQueue
}

// databaseMetrics are those that RDS and Aurora name differently.
type databaseMetrics struct {
	cpu       awscloudwatch.IMetric
	low       awscloudwatch.IMetric // nil: nothing runs low
	lowBelow  float64
	lowName   string
	high      awscloudwatch.IMetric
	highAbove float64
	highName  string
}

func options(statistic string, period time.Duration) *awscloudwatch.MetricOptions {
	return &awscloudwatch.MetricOptions{
		Statistic: jsii.String(statistic), Period: awscdk.Duration_Seconds(jsii.Number(period.Seconds())),
	}
}

// own is a metric that the function writes itself.
func (m measures) own(function, name, statistic string, period time.Duration) awscloudwatch.IMetric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String(telemetry.Namespace), MetricName: jsii.String(name),
		DimensionsMap: &map[string]*string{"Function": m.functions[function].FunctionName()},
		Statistic:     jsii.String(statistic), Period: awscdk.Duration_Seconds(jsii.Number(period.Seconds())),
	})
}

// ofProxy is a metric of RDS Proxy, over all of its instances.
func (m measures) ofProxy(name string, period time.Duration) awscloudwatch.IMetric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String("AWS/RDS"), MetricName: jsii.String(name),
		DimensionsMap: &map[string]*string{"ProxyName": m.proxy.DbProxyName()},
		Statistic:     jsii.String("Sum"), Period: awscdk.Duration_Seconds(jsii.Number(period.Seconds())),
	})
}

func math(expression, label string, period time.Duration, of map[string]awscloudwatch.IMetric) awscloudwatch.IMetric {
	return awscloudwatch.NewMathExpression(&awscloudwatch.MathExpressionProps{
		Expression: jsii.String(expression), Label: jsii.String(label), UsingMetrics: &of,
		Period: awscdk.Duration_Seconds(jsii.Number(period.Seconds())),
	})
}

// holdsExpired counts held settlements that no promise came for: the sweep
// finds most, the functions that hold find those whose key is used again.
func (m measures) holdsExpired(period time.Duration) awscloudwatch.IMetric {
	of := map[string]awscloudwatch.IMetric{}
	var terms []string
	for i, name := range []string{"expire-promises", "reject", "resolve", "resolve-by-key"} {
		id := fmt.Sprintf("m%d", i)
		of[id] = m.own(name, sweep.MetricEarlyExpired, "Sum", period)
		terms = append(terms, "FILL("+id+", 0)")
	}
	return math(strings.Join(terms, " + "), "Held settlements given up", period, of)
}

func (m measures) alarms(s settings) []alarm {
	const minute, five = time.Minute, 5 * time.Minute
	var all []alarm
	for _, f := range routes.Functions {
		lambda := m.functions[f.Name]
		// A direct invoke that is refused (400, 404, 409) is a function error, too.
		errors := alarm{
			name: f.Name + "-errors", above: 5, of: 3, count: 3,
			metric: math("100 * errors / invocations", "Errors, %", five, map[string]awscloudwatch.IMetric{
				"errors": lambda.MetricErrors(options("Sum", five)), "invocations": lambda.MetricInvocations(options("Sum", five)),
			}),
		}
		slow := alarm{name: f.Name + "-slow", metric: lambda.MetricDuration(options("p99", five)), above: 1000, of: 3, count: 3}
		if slices.Contains(routes.Waiting, f.Name) { // for up to 25 s
			slow.above = 26_000
		}
		switch f.Name {
		case "expire-promises", "migrate": // which run for as long as they need, and nobody calls wrongly
			slow.above = 0.95 * float64(f.Timeout.Milliseconds())
			slow.of, slow.count = 1, 1
			errors = alarm{name: errors.name, metric: lambda.MetricErrors(options("Sum", five))}
		}
		all = append(all, errors, slow, alarm{name: f.Name + "-throttled", metric: lambda.MetricThrottles(options("Sum", five))})
	}
	all = append(all,
		alarm{
			name: "api-errors", above: 1, of: 3, count: 2,
			metric: math("100 * failed / requests", "5xx, %", five, map[string]awscloudwatch.IMetric{
				"failed": m.api.MetricServerError(options("Sum", five)), "requests": m.api.MetricCount(options("Sum", five)),
			}),
		},
		// Silence is worse: then nobody looks at the deadlines. It makes the alarm go to
		// INSUFFICIENT_DATA. That is also the state in which an alarm is created, and only
		// a change of state is told: a new stage, which has no data yet, rings nobody.
		// Missing data that breaches would raise the alarm at its first evaluation,
		// whatever the number of periods.
		// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
		alarm{
			name: "overdue", metric: m.own("expire-promises", sweep.MetricOldestOverdue, "Maximum", minute), above: 30, of: 5, count: 3,
			silence: awscloudwatch.TreatMissingData_MISSING,
		},
		alarm{name: "sweep-errors", metric: m.own("expire-promises", sweep.MetricSweepErrors, "Sum", five), of: 3, count: 2},
		alarm{name: "holds-expired", metric: m.holdsExpired(five)},
		alarm{name: "dead-letters", metric: m.failed.MetricApproximateNumberOfMessagesVisible(options("Maximum", minute))},
		alarm{
			name: "proxy-busy", metric: m.ofProxy("DatabaseConnectionsCurrentlyBorrowed", minute), of: 5, count: 3,
			above: 0.8 * float64(proxyConnections(s)),
		},
		alarm{name: "proxy-pinned", metric: m.ofProxy("DatabaseConnectionsCurrentlySessionPinned", minute), above: 10, of: 15, count: 15},
		alarm{name: "proxy-refused", metric: m.ofProxy("ClientConnectionsSetupFailedAuth", five)},
		alarm{name: "database-cpu", metric: m.database.metrics.cpu, above: 80, of: 3, count: 3},
		alarm{name: m.database.metrics.highName, metric: m.database.metrics.high, above: m.database.metrics.highAbove, of: 3, count: 3},
	)
	if low := m.database.metrics; low.low != nil {
		all = append(all, alarm{name: low.lowName, metric: low.low, above: low.lowBelow, below: true, of: 3, count: 3})
	}
	return all
}

// names are in order, so that the template is the same each time.
func (m measures) names() []string { return slices.Sorted(maps.Keys(m.functions)) }
