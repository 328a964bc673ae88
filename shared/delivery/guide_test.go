package delivery_test

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
)

// blocks returns the guide's code blocks of a language.
func blocks(t *testing.T, language string) (found []string) {
	t.Helper()
	guide, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile("(?s)\n```"+language+"\n(.*?)```\n").FindAllStringSubmatch(string(guide), -1) {
		found = append(found, m[1])
	}
	require.NotEmpty(t, found)
	return found
}

// The Go code of the guide is that of the examples, which run.
func TestGuide_GoIsOfTheExamples(t *testing.T) {
	t.Parallel()
	var examples string
	for _, name := range []string{"example_test.go", "queue_example_test.go"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		examples += string(text)
	}
	for _, code := range blocks(t, "go") {
		require.Contains(t, examples, code)
	}
}

// The state machine of the guide is complete: each state that it names exists and can be reached, and it retries and catches
// what AWS and this service can answer. TestGuide_StateMachine in infra/local sends its payload.
func TestGuide_StateMachine(t *testing.T) {
	t.Parallel()
	type state struct {
		Type, Resource, Next, ResultPath string
		TimeoutSeconds                   int
		Parameters                       struct {
			FunctionName string
			Payload      struct{ TimeoutMs int }
		}
		Retry []struct {
			ErrorEquals                  []string
			MaxAttempts                  int
			IntervalSeconds, BackoffRate float64
		}
		Catch []struct {
			ErrorEquals []string
			Next        string
		}
	}
	var machine struct {
		StartAt string
		States  map[string]state
	}
	require.NoError(t, json.Unmarshal([]byte(blocks(t, "json")[0]), &machine))
	start := machine.States[machine.StartAt]
	reached := []string{machine.StartAt, start.Next}
	caught := map[string]bool{}
	for _, c := range start.Catch {
		reached = append(reached, c.Next)
		for _, name := range c.ErrorEquals {
			caught[name] = true
		}
	}
	var names []string
	for name, s := range machine.States {
		names = append(names, name)
		if name != machine.StartAt {
			require.Contains(t, []string{"Succeed", "Fail"}, s.Type, "%s: two transitions in all", name)
		}
	}
	require.ElementsMatch(t, names, reached)
	t.Run("every error of a delivery is caught", func(t *testing.T) {
		for _, name := range []string{"promise_rejected", "promise_timed_out", "promise_cancelled", "States.Timeout"} {
			require.Contains(t, caught, name)
		}
	})
	t.Run("Lambda's errors are retried", func(t *testing.T) {
		require.Len(t, start.Retry, 1)
		for _, name := range []string{
			"Lambda.ClientExecutionTimeoutException", "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException",
			"Lambda.TooManyRequestsException", "unavailable",
		} {
			require.Contains(t, start.Retry[0].ErrorEquals, name)
		}
		require.Positive(t, start.Retry[0].MaxAttempts)
	})
	t.Run("the promise's deadline comes first", func(t *testing.T) {
		require.Equal(t, "arn:aws:states:::lambda:invoke.waitForTaskToken", start.Resource)
		require.Greater(t, start.TimeoutSeconds*1000, start.Parameters.Payload.TimeoutMs)
	})
}

// The guide has the numbers of the code.
func TestGuide_Limits(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for row, difference := range map[string]int{
		"| Step Functions | 262,144 bytes of output":      262_144 - delivery.Limit(delivery.StepFunctions),
		", 32,768 characters of cause |":                  32_768 - delivery.MaxCause,
		"| durable function | 1,000,000 bytes |":          1_000_000 - delivery.Limit(delivery.DurableExecution),
		"| `https` | 1 MiB |":                             1<<20 - delivery.Limit(delivery.HTTPS),
		"| `sqs`, `sns`, `eventbridge` | 261,120 bytes |": 261_120 - delivery.Limit(delivery.SQS),
		"| `lambda` | 1,000,000 bytes |":                  1_000_000 - delivery.Limit(delivery.Lambda),
		"| `email` | 64 KiB |":                            64<<10 - delivery.Limit(delivery.Email),
	} {
		require.Contains(t, string(guide), row)
		require.Zero(t, difference, row)
	}
}
