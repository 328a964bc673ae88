package main

import (
	_ "embed"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

var (
	//go:embed rules.guard
	guardRules string
	//go:embed rules.rego
	regoRules string
)

// addValidationRules makes the synthesis check the templates against the rules of the
// CDK's validator and against rules.guard and rules.rego. An error fails the synthesis,
// so that nothing is deployed.
func addValidationRules(app constructs.IConstruct) {
	awscdk.Validations_Of(app).AddPlugins(awscdk.NewCloudFormationValidatePlugin(&awscdk.CloudFormationValidatePluginProps{
		GuardRules: &[]*awscdk.ValidationRuleSource{{Name: jsii.String("rules.guard"), Content: jsii.String(guardRules)}},
		RegoRules:  &[]*awscdk.ValidationRuleSource{{Name: jsii.String("rules.rego"), Content: jsii.String(regoRules)}},
	}))
}
