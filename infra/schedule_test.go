package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

var scheduleFacts = []fact{
	{"there is one for each entry of the table", func(t *testing.T, tmpl template) {
		require.Len(t, tmpl.ofType("AWS::Scheduler::Schedule"), len(routes.Schedules))
	}},
	{"each runs every minute with an empty object", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::Scheduler::Schedule") {
			require.Equal(t, "rate(1 minute)", r.Properties["ScheduleExpression"])
			require.Equal(t, "{}", r.Properties["Target"].(map[string]any)["Input"])
		}
	}},
	{"each sends runs that cannot start to the dead-letter queue", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::Scheduler::Schedule") {
			dead := r.Properties["Target"].(map[string]any)["DeadLetterConfig"]
			require.Equal(t, "AWS::SQS::Queue", tmpl.Resources[target(dead)].Type)
		}
	}},
	{"failed asynchronous invocations go to the dead-letter queue", func(t *testing.T, tmpl template) {
		require.Len(t, tmpl.ofType("AWS::Lambda::EventInvokeConfig"), len(routes.Schedules)+1, "the scheduled functions and migrate")
		for _, r := range tmpl.ofType("AWS::Lambda::EventInvokeConfig") {
			require.Equal(t, "AWS::SQS::Queue", tmpl.Resources[target(r.Properties["DestinationConfig"])].Type)
		}
	}},
	{"asynchronous invocations expire within 15 minutes", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::Lambda::EventInvokeConfig") {
			require.LessOrEqual(t, r.Properties["MaximumEventAgeInSeconds"], 900.0, "by default Lambda keeps them for six hours")
		}
	}},
}
