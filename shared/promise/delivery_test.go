package promise_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// The tokens that are valid are the 1 to 2048 characters of Step Functions, and what Lambda's pattern of a callback id matches.
func TestCheckToken(t *testing.T) {
	t.Parallel()
	pattern := regexp.MustCompile(`\A[A-Za-z0-9+/]+={0,2}\z`)
	for _, token := range []string{
		"", "a", "=", "a=", "a==", "a===", "a=b", "a b", "a-b", "a_b", "a/+", "ä", "a\n", strings.Repeat("a", 1024), strings.Repeat("a", 1025),
		strings.Repeat("ä", 2048), strings.Repeat("ä", 2049),
	} {
		characters := len([]rune(token))
		for kind, valid := range map[promise.DestinationKind]bool{
			promise.DestinationStepFunctions:    characters >= 1 && characters <= 2048,
			promise.DestinationDurableExecution: characters <= 1024 && pattern.MatchString(token),
		} {
			t.Run(string(kind)+" "+token[:min(len(token), 20)], func(t *testing.T) {
				err := promise.CheckToken(kind, token)
				if valid {
					require.NoError(t, err)
					return
				}
				require.Equal(t, promise.CodeInvalidNotify, promise.AsError(err).Code)
				if len(token) > 20 {
					require.NotContains(t, err.Error(), token[:20])
				}
			})
		}
	}
}

func TestCheckRetry(t *testing.T) {
	t.Parallel()
	kinds := []promise.DestinationKind{
		promise.DestinationHTTPS, promise.DestinationSQS, promise.DestinationSNS, promise.DestinationEventBridge, promise.DestinationLambda,
		promise.DestinationEmail, promise.DestinationStepFunctions, promise.DestinationDurableExecution,
	}
	for _, kind := range kinds {
		for _, state := range promise.DeliveryStates {
			for _, deleted := range []bool{false, true} {
				takesToken := kind == "stepFunctions" || kind == "durableExecution"
				may := !deleted && (state == "dead" || state == "due" || state == "delivered" && !takesToken)
				err := promise.CheckRetry(promise.Delivery{Kind: kind, State: state}, deleted)
				if may {
					require.NoError(t, err, "%s %s %t", kind, state, deleted)
				} else {
					require.Equal(t, promise.CodeConflict, promise.AsError(err).Code, "%s %s %t", kind, state, deleted)
				}
			}
		}
	}
}

func TestParseDeliveryID(t *testing.T) {
	t.Parallel()
	want := uuid.MustParse(id)
	got, err := promise.ParseDeliveryID(strings.ToUpper(id))
	require.NoError(t, err)
	require.Equal(t, want, got)
	for _, s := range []string{"", "id:" + id, "{" + id + "}", strings.ReplaceAll(id, "-", ""), id + " "} {
		_, err := promise.ParseDeliveryID(s)
		require.Equal(t, promise.CodeInvalidUUID, promise.AsError(err).Code)
	}
}

func TestDeliveryFilter(t *testing.T) {
	t.Parallel()
	f := promise.DeliveryFilter{}
	require.NoError(t, f.Check())
	last := promise.Delivery{ID: uuid.MustParse(id), CreatedAt: time.UnixMicro(1).UTC()}
	f.After = new(f.CursorAfter(last))
	require.NoError(t, f.Check())
	parsed, err := promise.ParseCursor(f.After.String())
	require.NoError(t, err)
	require.Equal(t, promise.Cursor{CreatedAt: last.CreatedAt, ID: last.ID}, parsed)
	f.After = &promise.Cursor{TimeoutAt: &last.CreatedAt, ID: last.ID}
	require.Equal(t, "cursor", promise.AsError(f.Check()).Field)
}
