package main

import (
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambdadestinations"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsscheduler"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsschedulertargets"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssqs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/flovyn/promises/shared/routes"
)

// newSchedules invokes what runs by itself. What could not be invoked, and what
// failed, goes to the queue; the next run makes up for it.
func newSchedules(parent constructs.Construct, functions map[string]awslambda.Function, failed awssqs.IQueue) {
	scope := constructs.NewConstruct(parent, jsii.String("Schedules"))
	for _, schedule := range routes.Schedules {
		f := functions[schedule.Function]
		deadLetters(f, failed, 0, schedule.Every) // by then the next run is there
		awsscheduler.NewSchedule(scope, jsii.String(schedule.Function), &awsscheduler.ScheduleProps{
			Schedule:   awsscheduler.ScheduleExpression_Rate(awscdk.Duration_Minutes(jsii.Number(schedule.Every.Minutes()))),
			TimeWindow: awsscheduler.TimeWindow_Off(),
			Target: awsschedulertargets.NewLambdaInvoke(f, &awsschedulertargets.ScheduleTargetBaseProps{
				Input:           awsscheduler.ScheduleTargetInput_FromObject(map[string]any{}),
				RetryAttempts:   jsii.Number(0),
				MaxEventAge:     awscdk.Duration_Minutes(jsii.Number(1)),
				DeadLetterQueue: failed,
			}),
		})
	}
}

// newDeadLetterQueue keeps, for two weeks, the invocations that nobody waits for
// and that failed.
func newDeadLetterQueue(scope constructs.Construct) awssqs.Queue {
	return awssqs.NewQueue(scope, jsii.String("DeadLetters"), &awssqs.QueueProps{
		Encryption: awssqs.QueueEncryption_SQS_MANAGED, EnforceSSL: jsii.Bool(true),
		RetentionPeriod: awscdk.Duration_Days(jsii.Number(14)),
	})
}

// deadLetters sends what was invoked without anybody waiting, and failed that
// many times more, or found no place to run for so long, to the queue.
func deadLetters(f awslambda.Function, failed awssqs.IQueue, retries int, patience time.Duration) {
	f.ConfigureAsyncInvoke(&awslambda.EventInvokeConfigOptions{
		OnFailure:     awslambdadestinations.NewSqsDestination(failed),
		RetryAttempts: jsii.Number(retries),
		MaxEventAge:   awscdk.Duration_Seconds(jsii.Number(patience.Seconds())),
	})
}
