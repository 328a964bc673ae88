package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
)

// destinationText matches the name of a destination.
var destinationText = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?|stepFunctions|durableExecution)$`)

const queueURL = "https://sqs.eu-central-1.amazonaws.com/123456789012/orders"

// arn returns an ARN of a service in eu-central-1.
func arn(service, resource string) string {
	return "arn:aws:" + service + ":eu-central-1:123456789012:" + resource
}

// destinations has fields of put-destination of manage-tenants, and the field and code of the error; empty: they are valid.
var destinations = []struct{ fields, field, code string }{
	{`"kind":"https","url":"https://example.com/hooks"`, "", ""},
	{`"kind":"https","url":"https://example.com/hooks","enabled":false`, "", ""},
	{`"kind":"sqs","address":"` + queueURL + `"`, "", ""},
	{`"kind":"sqs","address":"` + queueURL + `.fifo","region":"eu-central-1","roleArn":"arn:aws:iam::123456789012:role/a/b/notify"`, "", ""},
	{`"kind":"sqs","address":"https://sqs.cn-north-1.amazonaws.com.cn/123456789012/orders"`, "", ""},
	{`"kind":"sns","address":"` + arn("sns", "orders") + `"`, "", ""},
	{`"kind":"sns","address":"` + arn("sns", "orders.fifo") + `"`, "", ""},
	{`"kind":"eventbridge","address":"` + arn("events", "event-bus/default") + `"`, "", ""},
	{`"kind":"lambda","address":"` + arn("lambda", "function:orders") + `"`, "", ""},
	{`"kind":"lambda","address":"` + arn("lambda", "function:orders:live") + `"`, "", ""},
	{`"kind":"email","address":"orders@example.com","from":"promises@example.com","region":"us-gov-west-1"`, "", ""},
	{`"kind":"https"`, "url", "missing_field"},
	{`"kind":"https","url":""`, "url", "missing_field"},
	{`"kind":"https","url":7`, "url", "wrong_type"},
	{`"kind":"https","url":"http://example.com/"`, "url", "out_of_range"},
	{`"kind":"https","url":"https://example.com/#part"`, "url", "out_of_range"},
	{`"kind":"https","url":"https://hunter2@example.com/"`, "url", "out_of_range"},
	{`"kind":"https","url":"https://127.0.0.1/"`, "url", "out_of_range"},
	{`"kind":"https","url":"https://169.254.169.254/hunter2"`, "url", "out_of_range"},
	{`"kind":"https","url":"https://example.com/` + strings.Repeat("a", 2048) + `"`, "url", "out_of_range"},
	{`"kind":"https","url":"https://example.com/","region":"eu-central-1"`, "region", "out_of_range"},
	{`"kind":"https","url":"https://example.com/","roleArn":"arn:aws:iam::123456789012:role/notify"`, "roleArn", "out_of_range"},
	{`"kind":"https","url":"https://example.com/","from":"a@example.com"`, "from", "out_of_range"},
	{`"kind":"https","url":"https://example.com/","enabled":"yes"`, "enabled", "wrong_type"},
	{`"kind":"https","url":"https://example.com/","enabled":null`, "enabled", "wrong_type"},
	{`"kind":"https","address":"https://example.com/"`, "address", "out_of_range"},
	{`"kind":"sqs","url":"` + queueURL + `"`, "url", "out_of_range"},
	{`"kind":"sqs"`, "address", "missing_field"},
	{`"kind":"sqs","address":"https://example.com/123456789012/orders"`, "address", "out_of_range"},
	{`"kind":"sqs","address":"https://sqs.eu-central-1.amazonaws.com/123456789012/orders.FIFO"`, "address", "out_of_range"},
	{`"kind":"sqs","address":"https://sqs.nowhere.amazonaws.com/123456789012/orders"`, "address", "out_of_range"},
	{`"kind":"sqs","address":"` + queueURL + `\n"`, "address", "out_of_range"},
	{`"kind":"sqs","address":"` + queueURL + `","region":"eu-west-1"`, "region", "out_of_range"},
	{`"kind":"sqs","address":"` + queueURL + `","region":"Frankfurt"`, "region", "out_of_range"},
	{`"kind":"sqs","address":"` + queueURL + `","roleArn":"arn:aws:iam::123456789012:user/notify"`, "roleArn", "out_of_range"},
	{`"kind":"sns","address":"` + arn("sqs", "orders") + `"`, "address", "out_of_range"},
	{`"kind":"eventbridge","address":"default"`, "address", "out_of_range"},
	{`"kind":"lambda","address":"` + arn("lambda", "layer:orders") + `"`, "address", "out_of_range"},
	{`"kind":"lambda","address":"arn:aws:lambda:eu-central-1:42:function:orders"`, "address", "out_of_range"},
	{`"kind":"email","address":"orders@example.com"`, "from", "missing_field"},
	{`"kind":"email","address":"Orders <orders@example.com>","from":"promises@example.com"`, "address", "out_of_range"},
	{`"kind":"email","address":"orders","from":"promises@example.com"`, "address", "out_of_range"},
	{`"kind":"email","address":"orders@example.com","from":"promises@ä.example"`, "from", "out_of_range"},
	{`"kind":"email","address":"orders@example.com\r\nBcc: x@example.com","from":"promises@example.com"`, "address", "out_of_range"},
	{`"kind":"stepFunctions"`, "", ""},
	{`"kind":"durableExecution","region":"eu-central-1","roleArn":"arn:aws:iam::123456789012:role/notify"`, "", ""},
	{`"kind":"stepFunctions","address":"` + arn("states", "stateMachine:orders") + `"`, "address", "out_of_range"},
	{`"kind":"stepFunctions","roleArn":""`, "", ""},
	{`"kind":"fax","address":"1"`, "kind", "out_of_range"},
	{`"kind":"HTTPS","url":"https://example.com/"`, "kind", "out_of_range"},
	{`"address":"a"`, "kind", "missing_field"},
}

// destination reads a destination of put-destination. The valid addresses come from the list, not from the code under test.
func (o *oracle) destination() promise.Destination {
	d := promise.Destination{Name: *o.required("name"), Kind: promise.DestinationKind(*o.required("kind"))}
	for field, to := range map[string]*string{"address": &d.Address, "from": &d.From, "region": &d.Region, "roleArn": &d.RoleARN} {
		if s := o.text(field); s != nil {
			*to = *s
		}
	}
	url := o.text("url")
	isHTTPS := d.Kind == promise.DestinationHTTPS
	o.refuse(isHTTPS == (o.body["address"] != nil) && (isHTTPS || !d.Kind.TakesToken()) || !isHTTPS && url != nil)
	if isHTTPS && url != nil {
		d.Address = *url
		o.refuse(integrations.CheckURL(*url) != nil)
	}
	o.refuse(promise.CheckDestination(d) != nil)
	return d
}

func (o *oracle) enabled() *bool {
	raw, ok := o.body["enabled"]
	if !ok {
		return nil
	}
	o.refuse(string(raw) != "true" && string(raw) != "false")
	return new(string(raw) == "true")
}

func TestTheOperatorPutsDestinations(t *testing.T) {
	t.Parallel()
	s := newService(t)
	h, manage := manager(s)
	for i, c := range destinations {
		payload := fmt.Sprintf(`{"action":"put-destination","tenant":"demo","name":"d%d",%s}`, i, c.fields)
		t.Run(caseName(c.fields, c.code), func(t *testing.T) {
			if c.code == "" {
				made := manage(t, payload)
				require.Equal(t, true, made["created"])
				require.Equal(t, made["kind"] == "https", made["secret"] != nil)
				again := manage(t, payload)
				require.Equal(t, false, again["created"])
				require.NotContains(t, again, "secret")
				return
			}
			before := s.snapshot(t)
			_, err := h.Invoke(t.Context(), []byte(payload))
			p := requireFunctionError(t, c.code, err)
			require.Equal(t, c.field, p["field"])
			require.NotContains(t, p["detail"], "hunter2")
			require.Equal(t, before, s.snapshot(t), "a refused call writes nothing")
		})
	}
	for name, c := range map[string]struct{ payload, field, code string }{
		"a reserved name":     {`"tenant":"demo","name":"durableExecution","kind":"stepFunctions"`, "name", "invalid_name"},
		"an invalid name":     {`"tenant":"demo","name":"Orders","kind":"stepFunctions"`, "name", "invalid_name"},
		"no name":             {`"tenant":"demo","kind":"stepFunctions"`, "name", "missing_field"},
		"an unknown tenant":   {`"tenant":"nobody","name":"a","kind":"stepFunctions"`, "tenant", "not_found"},
		"a suspended tenant":  {`"tenant":"asleep","name":"a","kind":"stepFunctions"`, "tenant", "forbidden"},
		"another kind before": {`"tenant":"demo","name":"d0","kind":"stepFunctions"`, "kind", "conflict"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a suspended tenant" {
				manage(t, `{"action":"create-tenant","slug":"asleep"}`)
				manage(t, `{"action":"suspend-tenant","slug":"asleep"}`)
			}
			_, err := h.Invoke(t.Context(), []byte(`{"action":"put-destination",`+c.payload+`}`))
			require.Equal(t, c.field, requireFunctionError(t, c.code, err)["field"])
		})
	}
	t.Run("the reserved name with its kind", func(t *testing.T) {
		made := manage(t, `{"action":"put-destination","tenant":"demo","name":"stepFunctions","kind":"stepFunctions","region":"eu-west-1"}`)
		require.Equal(t, "eu-west-1", made["region"])
	})
	t.Run("the list has them, without secrets", func(t *testing.T) {
		list := manage(t, `{"action":"list-destinations","tenant":"demo"}`)["destinations"].([]any)
		valid := slices.DeleteFunc(slices.Clone(destinations), func(c struct{ fields, field, code string }) bool { return c.code != "" })
		require.Len(t, list, len(valid)+1)
		require.NotContains(t, fmt.Sprint(list), "whsec_")
	})
	t.Run("delete", func(t *testing.T) {
		require.Equal(t, true, manage(t, `{"action":"delete-destination","tenant":"demo","name":"d0"}`)["deleted"])
		_, err := h.Invoke(t.Context(), []byte(`{"action":"delete-destination","tenant":"demo","name":"d0"}`))
		require.Equal(t, "name", requireFunctionError(t, "not_found", err)["field"])
	})
	require.NotContains(t, s.log.String(), "whsec_", "the log has no secret")
	require.NotContains(t, s.log.String(), "hunter2")
}

// integrate invokes manage-integrations directly and decodes its answer.
func (s *service) integrate(t testing.TB, fields string) map[string]any {
	t.Helper()
	return s.answer(t, "manage-integrations", `{"tenant":"demo",`+fields+`}`)
}

func TestManageIntegrations(t *testing.T) {
	t.Parallel()
	s := newService(t)
	made := s.integrate(t, `"action":"put-destination","name":"orders","kind":"https","url":"https://example.com/hooks"`)
	secret := made["secret"].(string)
	t.Run("a new destination's secret is shown once", func(t *testing.T) {
		require.Regexp(t, `^whsec_[A-Za-z0-9+/]{43}=$`, secret)
		require.Equal(t, true, made["enabled"])
		for _, fields := range []string{
			`"action":"put-destination","name":"orders","kind":"https","url":"https://example.com/hooks"`,
			`"action":"get-destination","name":"orders"`, `"action":"list-destinations"`,
		} {
			require.NotContains(t, fmt.Sprint(s.integrate(t, fields)), "whsec_")
		}
	})
	t.Run("the stored secret is encrypted for its destination", func(t *testing.T) {
		d, secrets, err := s.store.GetDestination(t.Context(), tenant, "orders")
		require.NoError(t, err)
		text, err := sealing.Open("destination_secret.sealed", d.ID.String(), 1, secrets[0].Sealed)
		require.NoError(t, err)
		require.Equal(t, secret, string(text))
	})
	t.Run("enabled alone pauses and enables a destination of any kind", func(t *testing.T) {
		_, manage := manager(s)
		manage(t, `{"action":"put-destination","tenant":"demo","name":"machine","kind":"stepFunctions"}`)
		require.Equal(t, false, s.integrate(t, `"action":"put-destination","name":"machine","enabled":false`)["enabled"])
		require.Equal(t, true, s.integrate(t, `"action":"put-destination","name":"machine","enabled":true`)["enabled"])
	})
	t.Run("a rotation shows the new secret and when the former one retires", func(t *testing.T) {
		rotated := s.integrate(t, `"action":"rotate-secret","name":"orders"`)
		require.NotEqual(t, secret, rotated["secret"])
		list := rotated["secrets"].([]any)
		require.Equal(t, []any{2.0, 1.0}, []any{list[0].(map[string]any)["version"], list[1].(map[string]any)["version"]})
		require.NotContains(t, list[0], "retiresAt")
		require.Contains(t, list[1], "retiresAt")
		require.Equal(t, list, s.integrate(t, `"action":"get-destination","name":"orders"`)["secrets"])
		_, err := s.direct(t, "manage-integrations", `{"tenant":"demo","action":"rotate-secret","name":"orders"}`)
		require.Equal(t, "replaceVersion", requireFunctionError(t, "conflict", err)["field"])
		require.NotEmpty(t, s.integrate(t, `"action":"rotate-secret","name":"orders","replaceVersion":2,"overlapSeconds":0`)["secret"])
	})
	t.Run("the service's reason is shown", func(t *testing.T) {
		s.db.Exec(t, "UPDATE destination SET enabled = FALSE, disabled_because = 'it answered 410' WHERE name = 'orders'")
		require.Equal(t, "it answered 410", s.integrate(t, `"action":"get-destination","name":"orders"`)["disabledBecause"])
	})
	t.Run("a test reports the receiver's answer, even of a disabled destination", func(t *testing.T) {
		tested := s.integrate(t, `"action":"test-destination","name":"orders"`)
		require.Equal(t, []any{"failed", 500.0, "the receiver answered 500"}, []any{tested["outcome"], tested["status"], tested["error"]})
		require.Contains(t, tested, "durationMs")
	})
	t.Run("a tenant has at most two tests at one time", func(t *testing.T) {
		h := s.handler(t, "manage-integrations")
		call := []byte(`{"tenant":"demo","action":"test-destination","name":"orders"}`)
		var errs []error // the innermost call's first
		tests := 0
		h.Integrations.Test = testFunc(func(ctx context.Context) error {
			if tests++; tests <= 2 {
				_, err := h.Invoke(ctx, call)
				errs = append(errs, err)
			}
			return nil
		})
		_, err := h.Invoke(t.Context(), call)
		require.NoError(t, err)
		require.Equal(t, 2, tests, "the third test does not begin")
		problem := requireFunctionError(t, "quota_exceeded", errs[0])
		require.Equal(t, []any{"tests", 2.0}, []any{problem["quota"], problem["limit"]})
		require.NoError(t, errs[1])
		s.integrate(t, `"action":"test-destination","name":"orders"`) // both have ended
	})
	t.Run("a task cannot be tested", func(t *testing.T) {
		_, err := s.direct(t, "manage-integrations", `{"tenant":"demo","action":"test-destination","name":"machine"}`)
		require.Contains(t, requireFunctionError(t, "conflict", err)["detail"], "only a waiting task can be completed")
	})
	t.Run("a test whose message cannot be sent is no answer", func(t *testing.T) {
		h := s.handler(t, "manage-integrations")
		var deadline time.Time
		failing := errors.New("no function")
		h.Integrations.Test = testFunc(func(ctx context.Context) error { deadline, _ = ctx.Deadline(); return failing })
		_, err := h.Invoke(t.Context(), []byte(`{"tenant":"demo","action":"test-destination","name":"orders"}`))
		requireFunctionError(t, "internal", err)
		require.Greater(t, time.Until(deadline), h.Timeout, "a receiver has more time than the database")
	})
	t.Run("the default destination", func(t *testing.T) {
		require.Equal(t, "orders", s.integrate(t, `"action":"set-default-destination","destination":"orders"`)["destination"])
		require.Equal(t, true, s.integrate(t, `"action":"get-destination","name":"orders"`)["default"])
		require.Nil(t, s.integrate(t, `"action":"set-default-destination","destination":null`)["destination"])
		require.Equal(t, false, s.integrate(t, `"action":"get-destination","name":"orders"`)["default"])
	})
	t.Run("pages", func(t *testing.T) {
		first := s.integrate(t, `"action":"list-destinations","limit":1`)
		require.Equal(t, "machine", first["destinations"].([]any)[0].(map[string]any)["name"])
		second := s.integrate(t, `"action":"list-destinations","limit":1,"cursor":"`+first["nextCursor"].(string)+`"`)
		require.Equal(t, "orders", second["destinations"].([]any)[0].(map[string]any)["name"])
		require.NotContains(t, second, "nextCursor")
	})
	t.Run("the log names the operation", func(t *testing.T) {
		require.Contains(t, s.log.String(), "operation=test-destination")
	})
	require.NotContains(t, s.log.String(), "whsec_", "the log has no secret")
}

func testFunc(call func(context.Context) error) func(
	context.Context, string, promise.Destination, []promise.DestinationSecret,
) (none gateway.TestResult, err error) {
	return func(ctx context.Context, _ string, _ promise.Destination, _ []promise.DestinationSecret) (none gateway.TestResult, err error) {
		return none, call(ctx)
	}
}

func TestInvalidCallsOfManageIntegrations(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.destination(t)
	_, manage := manager(s)
	manage(t, `{"action":"put-destination","tenant":"demo","name":"machine","kind":"stepFunctions"}`)
	before := s.snapshot(t)
	for payload, want := range map[string][2]string{
		`{`:                              {"malformed_json", ""},
		`{"tenant":"demo"}`:              {"missing_field", "action"},
		`{"action":"drop"}`:              {"out_of_range", "action"},
		`{"action":7}`:                   {"wrong_type", "action"},
		`{"action":"list-destinations"}`: {"missing_field", "tenant"},
		`{"action":"list-destinations","tenant":"demo","name":"orders"}`:                                                  {"unknown_field", "name"},
		`{"action":"list-destinations","tenant":"demo","place":1}`:                                                        {"unknown_field", "place"},
		`{"action":"list-destinations","tenant":"demo","limit":101}`:                                                      {"out_of_range", "limit"},
		`{"action":"list-destinations","tenant":"demo","cursor":"!"}`:                                                     {"invalid_parameter", "cursor"},
		`{"action":"list-destinations","tenant":"demo","cursor":"T1JERVJT"}`:                                              {"invalid_parameter", "cursor"},
		`{"action":"get-destination","tenant":"demo"}`:                                                                    {"missing_field", "name"},
		`{"action":"get-destination","tenant":"demo","name":"Orders"}`:                                                    {"invalid_name", "name"},
		`{"action":"get-destination","tenant":"demo","name":"nothing"}`:                                                   {"not_found", ""},
		`{"action":"put-destination","tenant":"demo","name":"orders"}`:                                                    {"missing_field", "kind"},
		`{"action":"put-destination","tenant":"demo","name":"orders","url":"https://example.com/"}`:                       {"missing_field", "kind"},
		`{"action":"put-destination","tenant":"demo","name":"orders","kind":"https"}`:                                     {"missing_field", "url"},
		`{"action":"put-destination","tenant":"demo","name":"orders","kind":"https","url":"ftp://a/"}`:                    {"out_of_range", "url"},
		`{"action":"put-destination","tenant":"demo","name":"orders","kind":"lambda","url":"a"}`:                          {"forbidden", "kind"},
		`{"action":"put-destination","tenant":"demo","name":"orders","kind":"fax","url":"a"}`:                             {"out_of_range", "kind"},
		`{"action":"put-destination","tenant":"demo","name":"orders","kind":"https","url":"https://a/","roleArn":"r"}`:    {"unknown_field", "roleArn"},
		`{"action":"put-destination","tenant":"demo","name":"machine","kind":"https","url":"https://example.com/"}`:       {"conflict", "kind"},
		`{"action":"put-destination","tenant":"demo","name":"stepFunctions","kind":"https","url":"https://example.com/"}`: {"invalid_name", "name"},
		`{"action":"put-destination","tenant":"demo","name":"nothing","enabled":true}`:                                    {"not_found", ""},
		`{"action":"put-destination","tenant":"demo","name":"orders","enabled":1}`:                                        {"wrong_type", "enabled"},
		`{"action":"delete-destination","tenant":"demo","name":"nothing"}`:                                                {"not_found", ""},
		`{"action":"rotate-secret","tenant":"demo","name":"nothing"}`:                                                     {"not_found", ""},
		`{"action":"rotate-secret","tenant":"demo","name":"machine"}`:                                                     {"conflict", ""},
		`{"action":"rotate-secret","tenant":"demo","name":"orders","overlapSeconds":604801}`:                              {"out_of_range", "overlapSeconds"},
		`{"action":"rotate-secret","tenant":"demo","name":"orders","overlapSeconds":-1}`:                                  {"out_of_range", "overlapSeconds"},
		`{"action":"rotate-secret","tenant":"demo","name":"orders","replaceVersion":"1"}`:                                 {"wrong_type", "replaceVersion"},
		`{"action":"rotate-secret","tenant":"demo","name":"orders","replaceVersion":7}`:                                   {"conflict", "replaceVersion"},
		`{"action":"test-destination","tenant":"demo","name":"nothing"}`:                                                  {"not_found", ""},
		`{"action":"set-default-destination","tenant":"demo"}`:                                                            {"missing_field", "destination"},
		`{"action":"set-default-destination","tenant":"demo","destination":7}`:                                            {"wrong_type", "destination"},
		`{"action":"set-default-destination","tenant":"demo","destination":"A"}`:                                          {"invalid_name", "destination"},
		`{"action":"set-default-destination","tenant":"demo","destination":"nothing"}`:                                    {"unknown_destination", "destination"},
		`{"action":"set-default-destination","tenant":"demo","destination":"machine"}`:                                    {"conflict", "destination"},
	} {
		t.Run(caseName(payload, want[0]), func(t *testing.T) {
			_, err := s.direct(t, "manage-integrations", payload)
			p := requireFunctionError(t, want[0], err)
			field, _ := p["field"].(string)
			require.Equal(t, want[1], field)
		})
	}
	t.Run("a forged event", func(t *testing.T) {
		for _, route := range []string{"", "GET /api/tenants/{slug}/destinations"} {
			h := s.handler(t, "manage-integrations")
			h.HTTPAlias = "http"
			_, err := h.Invoke(t.Context(), []byte(`{"version":"2.0","requestContext":{},"routeKey":"`+route+`"}`))
			requireFunctionError(t, "forbidden", err)
		}
	})
	t.Run("an event of a route that the function does not serve", func(t *testing.T) {
		requireProblem(t, 404, "not_found", respond(t, s.handler(t, "manage-integrations"), httpEvent(t, "POST", tenant, "", "", "")))
	})
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
}
