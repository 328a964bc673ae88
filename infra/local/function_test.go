package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/delivery/awssender"
)

// environments returns the settings of each function, by name.
func environments(t *testing.T) map[string]map[string]string {
	t.Helper()
	all := map[string]map[string]string{}
	for _, f := range functions("/bin", map[string]string{
		"DATABASE_URL": "postgres://own", "DELIVER_TO_LOOPBACK": "true", "SIGNING_KEY": "own", "SEALING_KEYS": "own", "SOURCE_URL_KEY": "own", "TOKEN_KEYS": "own", lambdaEndpoint: "http://own",
	}) {
		all[f.Name] = map[string]string{}
		for _, variable := range f.Env {
			name, value, _ := strings.Cut(variable, "=")
			require.NotContains(t, all[f.Name], name, "a variable comes once")
			all[f.Name][name] = value
		}
	}
	return all
}

// Each function gets the settings that it needs. The function that talks to strangers gets no database and no key.
func TestEnvironments(t *testing.T) { // not parallel: it sets this process's environment
	for _, name := range append([]string{"AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "LOG_LEVEL"}, awsNames()...) {
		t.Setenv(name, "")
	}
	t.Setenv("LOG_LEVEL", "debug")
	t.Setenv("RETENTION_DAYS", "7")
	t.Setenv("SEND_FUNCTION", "another")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDUSER")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	t.Setenv("AWS_SESSION_TOKEN", "")
	t.Run("keys", func(t *testing.T) {
		for setting, want := range map[string][]string{
			"SIGNING_KEY":    {"create-promise", "migrate"},
			"SEALING_KEYS":   {"manage-integrations", "manage-tenants", "migrate", "receive-webhook", "relay-deliveries"},
			"SOURCE_URL_KEY": {"manage-integrations", "receive-webhook"},
			lambdaEndpoint:   {"manage-integrations", "relay-deliveries"},
		} {
			var got []string
			for name, env := range environments(t) {
				if _, ok := env[setting]; ok {
					got = append(got, name)
				}
			}
			slices.Sort(got)
			require.Equal(t, want, got, setting)
		}
	})
	t.Run("the relay invokes the runner's own function", func(t *testing.T) {
		env := environments(t)["relay-deliveries"]
		require.Equal(t, []string{"send-deliveries", "http://own", "7"}, []string{env["SEND_FUNCTION"], env[lambdaEndpoint], env["RETENTION_DAYS"]})
		require.NotContains(t, env, "AWS_ACCESS_KEY_ID", "the user's credentials")
	})
	t.Run("the sender without an endpoint", func(t *testing.T) {
		require.Equal(t, map[string]string{"DELIVER_TO_LOOPBACK": "true", "LOG_LEVEL": "debug"}, environments(t)["send-deliveries"])
	})
	t.Run("the sender with an endpoint", func(t *testing.T) {
		t.Setenv("AWS_ENDPOINT_URL_SQS", "http://localhost:4566")
		t.Setenv("AWS_DEFAULT_REGION", "eu-west-1")
		require.Equal(t, map[string]string{
			"DELIVER_TO_LOOPBACK": "true", "LOG_LEVEL": "debug", "AWS_ENDPOINT_URL_SQS": "http://localhost:4566", "AWS_REGION": "eu-west-1",
			"AWS_ACCESS_KEY_ID": "AKIDUSER", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_SESSION_TOKEN": "",
		}, environments(t)["send-deliveries"])
	})
	t.Run("the sender with one endpoint for all services, without credentials", func(t *testing.T) {
		t.Setenv("AWS_ENDPOINT_URL", "http://localhost:4566")
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		require.Equal(t, map[string]string{"DELIVER_TO_LOOPBACK": "true", "LOG_LEVEL": "debug", "AWS_ENDPOINT_URL": "http://localhost:4566"},
			environments(t)["send-deliveries"], "the environment of lambda has others")
	})
}

func awsNames() (names []string) {
	for _, service := range awsServices {
		names = append(names, "AWS_ENDPOINT_URL_"+service)
	}
	return names
}

// The sender gets the endpoint of each kind of destination that is an AWS service.
func TestEndpointsOfEachKind(t *testing.T) {
	t.Parallel()
	for _, kind := range []delivery.Kind{
		delivery.SQS, delivery.SNS, delivery.EventBridge, delivery.Lambda, delivery.Email, delivery.StepFunctions, delivery.DurableExecution,
	} {
		_, variable := awssender.Endpoint(kind)
		require.Contains(t, awsNames(), variable)
	}
}

// The environments of all functions together leave room for those that do not wait.
func TestWaitingFunctionsLeaveRoom(t *testing.T) {
	t.Parallel()
	taken := 0
	for _, f := range functions("/bin", map[string]string{}) {
		if slices.Contains([]string{"wait-promise", "wait-events", "send-deliveries"}, f.Name) {
			taken += f.Concurrency
		}
	}
	const scheduled = 2 + 3 // sweeps and relays at one time
	require.GreaterOrEqual(t, maxEnvironments-taken-scheduled, 20)
}

// The log of an attempt becomes one line on the terminal, and every other line stays as it is.
func TestTerminal_Delivery(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ line, out, err string }{
		"delivered": {
			`[relay-deliveries] {"time":"2026-11-27T05:00:00Z","level":"INFO","msg":"delivery attempted","deliveryId":"8d1f","tenant":"demo","destination":"orders","kind":"https","outcome":"delivered","state":"delivered","status":204,"ms":12}`,
			`^\d\d:\d\d:00  delivery               12 ms  https  demo/orders  delivered 204\n$`, `^$`,
		},
		"failed": {
			`[relay-deliveries] {"time":"2026-11-27T05:00:00Z","level":"INFO","msg":"delivery attempted","deliveryId":"8d1f","tenant":"demo","destination":"stepFunctions","kind":"stepFunctions","outcome":"failed","state":"due","status":0,"ms":0,"error":"No endpoint is configured for stepFunctions: set AWS_ENDPOINT_URL_SFN."}`,
			`  stepFunctions  demo/stepFunctions  failed, due again: No endpoint is configured for stepFunctions: set AWS_ENDPOINT_URL_SFN\.\n$`, `^$`,
		},
		"dead": {
			`[relay-deliveries] {"msg":"delivery attempted","tenant":"demo","destination":"orders","kind":"https","outcome":"failed","state":"dead","status":500,"ms":3,"error":"status 500"}`,
			`  https  demo/orders  failed 500, dead: status 500\n$`, `^$`,
		},
		"another line of the relay":  {`[relay-deliveries] {"msg":"relayed"}`, `^$`, `^\[relay-deliveries\] \{"msg":"relayed"\}\n$`},
		"a line of another function": {`[create-promise] {"msg":"delivery attempted"}`, `^$`, `^\[create-promise\]`},
		"a panic":                    {`[relay-deliveries] panic: "msg":"delivery attempted"`, `^$`, `panic`},
	} {
		t.Run(name, func(t *testing.T) {
			var out, err buffer
			screen := &terminal{out: &out, err: &err}
			_, writeErr := screen.functionOutput().Write([]byte(c.line + "\n"))
			require.NoError(t, writeErr)
			require.Regexp(t, c.out, out.String())
			require.Regexp(t, c.err, err.String())
		})
	}
}
