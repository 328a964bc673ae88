// Command infra is the CDK app that writes the CloudFormation template of the service.
// README.md beside it explains deployment and operation.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := synth(ctx)
	stop()
	jsii.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// synth writes the cloud assembly to CDK_OUTDIR, the folder that the CDK CLI names.
func synth(ctx context.Context) error {
	app := awscdk.NewApp(&awscdk.AppProps{AnalyticsReporting: jsii.Bool(false)})
	// Stack traces contain the names of temporary folders, so that no two syntheses
	// would write the same bytes.
	app.Node().SetContext(jsii.String("aws:cdk:disable-creation-stack-traces"), true)
	given, _ := app.Node().GetAllContext(nil).(map[string]any)
	s, err := readSettings(given)
	if err != nil {
		return err
	}
	code, err := buildFunctions(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(string(code))
	if err := newService(app, s, code); err != nil {
		return err
	}
	addValidationRules(app)
	app.Synth(nil)
	return nil
}
