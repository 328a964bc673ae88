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

// guard judges the templates by the rules of the CDK's validator and by our own:
// an error fails the synthesis, and nothing is deployed.
func guard(app constructs.IConstruct) {
	awscdk.Validations_Of(app).AddPlugins(awscdk.NewCloudFormationValidatePlugin(&awscdk.CloudFormationValidatePluginProps{
		GuardRules: &[]*awscdk.ValidationRuleSource{{Name: jsii.String("rules.guard"), Content: jsii.String(guardRules)}},
		RegoRules:  &[]*awscdk.ValidationRuleSource{{Name: jsii.String("rules.rego"), Content: jsii.String(regoRules)}},
	}))
}
