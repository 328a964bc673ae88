// Command infra is the CDK app: it writes the CloudFormation template of the
// whole service. README.md beside it says how to deploy and operate it.
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

// synth writes the cloud assembly where the CDK CLI wants it (CDK_OUTDIR).
func synth(ctx context.Context) error {
	app := awscdk.NewApp(&awscdk.AppProps{AnalyticsReporting: jsii.Bool(false)})
	// They have the names of temporary folders in them.
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
	guard(app)
	app.Synth(nil)
	return nil
}
