package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

var engineFacts = []fact{
	{"its name contains the region", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::IAM::ManagedPolicy") {
			require.Equal(t, "promises-"+tmpl.stage+"-engine-{Region}", joined(r.Properties["ManagedPolicyName"]))
		}
	}},
	{"a replaced policy is kept", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::IAM::ManagedPolicy") {
			require.Equal(t, "Retain", r.UpdateReplacePolicy, "roles of engines have the old one attached")
		}
	}},
	{"it allows engines to invoke their functions without a qualifier, and nothing else", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::IAM::ManagedPolicy") {
			statements := r.Properties["PolicyDocument"].(map[string]any)["Statement"].([]any)
			require.Len(t, statements, 1)
			statement := statements[0].(map[string]any)
			require.Equal(t, "lambda:InvokeFunction", statement["Action"])
			var names []string
			for _, arn := range statement["Resource"].([]any) {
				require.Equal(t, map[string]any{"Fn::GetAtt": []any{target(arn), "Arn"}}, arn, "a qualifier would allow the alias of API Gateway")
				names = append(names, tmpl.functionName(tmpl.Resources[target(arn)]))
			}
			require.ElementsMatch(t, []string{
				"create-promise", "cancel-promise", "extend-promise", "resolve-by-id", "resolve-by-key", "reject", "get-promise", "list-events",
				"wait-promise", "wait-events",
			}, names)
		}
	}},
}
