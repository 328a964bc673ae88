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

// newSchedules creates the schedules of routes.Schedules. A run that cannot be invoked
// or that fails goes to the dead-letter queue; the next run does its work.
func newSchedules(parent constructs.Construct, functions map[string]awslambda.Function, queue awssqs.IQueue) {
	scope := constructs.NewConstruct(parent, jsii.String("Schedules"))
	for _, schedule := range routes.Schedules {
		f := functions[schedule.Function]
		configureDeadLetters(f, queue, 0, schedule.Every) // after that time the next run starts
		awsscheduler.NewSchedule(scope, jsii.String(schedule.Function), &awsscheduler.ScheduleProps{
			Schedule:   awsscheduler.ScheduleExpression_Rate(awscdk.Duration_Minutes(jsii.Number(schedule.Every.Minutes()))),
			TimeWindow: awsscheduler.TimeWindow_Off(),
			Target: awsschedulertargets.NewLambdaInvoke(f, &awsschedulertargets.ScheduleTargetBaseProps{
				Input:           awsscheduler.ScheduleTargetInput_FromObject(map[string]any{}),
				RetryAttempts:   jsii.Number(0),
				MaxEventAge:     awscdk.Duration_Minutes(jsii.Number(1)),
				DeadLetterQueue: queue,
			}),
		})
	}
}

// newDeadLetterQueue creates the queue that keeps failed asynchronous invocations for
// two weeks.
func newDeadLetterQueue(scope constructs.Construct) awssqs.Queue {
	return awssqs.NewQueue(scope, jsii.String("DeadLetters"), &awssqs.QueueProps{
		Encryption: awssqs.QueueEncryption_SQS_MANAGED, EnforceSSL: jsii.Bool(true),
		RetentionPeriod: awscdk.Duration_Days(jsii.Number(14)),
	})
}

// configureDeadLetters sends an asynchronous invocation to the queue once its retries
// are used up or it is older than maxAge.
func configureDeadLetters(f awslambda.Function, queue awssqs.IQueue, retries int, maxAge time.Duration) {
	f.ConfigureAsyncInvoke(&awslambda.EventInvokeConfigOptions{
		OnFailure:     awslambdadestinations.NewSqsDestination(queue),
		RetryAttempts: jsii.Number(retries),
		MaxEventAge:   awscdk.Duration_Seconds(jsii.Number(maxAge.Seconds())),
	})
}
