package gateway_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// samples has the expected answer to each sample event: a status in the HTTP form, an error type in the direct form ("" for
// none). Each event goes to its function's handler, on a database in which the events' promise is pending.
var samples = map[string]struct {
	status  int
	code    string
	created bool // the promise does not exist before
	settled bool // the promise is settled before

	delivery promise.DeliveryState // the promise has the delivery of the events, in this state
	disabled bool                  // the destination of that delivery is disabled
	put      bool                  // the destination exists before
	reads    bool                  // the call writes nothing

	source  bool // the source stripe exists before
	receipt bool // it does, and the receipt of the events has failed
	github  bool // the tenant has the source github
	records bool // a refused call is recorded
}{
	"create-promise.http":                 {status: 201, created: true},
	"create-promise.direct":               {created: true},
	"create-promise.direct-workflow-id":   {created: true},
	"list-events.bad-unknown-workflow-id": {status: 404, code: "not_found"},
	"create-promise.bad-name":             {status: 400, code: "invalid_name", created: true},
	"create-promise.bad-workflow-id":      {code: "invalid_uuid", created: true},
	"create-promise.bad-unknown-tenant":   {status: 404, code: "not_found", created: true},
	"get-promise.http":                    {status: 200},
	"get-promise.http-key":                {status: 200},
	"get-promise.direct":                  {},
	"get-promise.bad-not-a-uuid":          {status: 400, code: "invalid_uuid"},
	"get-promise.bad-unknown-tenant":      {status: 404, code: "not_found"},
	"resolve.http":                        {status: 200},
	"resolve.http-key":                    {status: 200},
	"resolve.http-strict":                 {status: 200},
	"resolve.http-base64":                 {status: 200},
	"resolve.direct":                      {},
	"resolve.bad-malformed-json":          {status: 400, code: "malformed_json"},
	"resolve.bad-trailing-data":           {status: 400, code: "trailing_data"},
	"resolve.bad-unknown-field":           {status: 400, code: "unknown_field"},
	"resolve.bad-missing-value":           {status: 400, code: "missing_field"},
	"resolve.bad-base64":                  {status: 400, code: "malformed_json"},
	"resolve.bad-oversize":                {status: 413, code: "value_too_large"},
	"resolve.bad-prefix":                  {status: 400, code: "invalid_identifier"},
	"resolve.bad-prefix-case":             {status: 400, code: "invalid_identifier"},
	"resolve.bad-not-a-uuid":              {status: 400, code: "invalid_uuid"},
	"resolve.bad-content-type":            {status: 415, code: "unsupported_media_type"},
	"resolve.bad-unknown-tenant":          {status: 404, code: "not_found"},
	"resolve-by-id.bad-event":             {code: "forbidden"},
	"resolve-by-id.direct":                {},
	"resolve-by-id.bad-key":               {code: "invalid_identifier"},
	"resolve-by-key.bad-event":            {code: "forbidden"},
	"resolve-by-key.direct":               {},
	"resolve-by-key.bad-unknown-key":      {code: "not_found"},
	"reject.http":                         {status: 200},
	"reject.direct":                       {},
	"reject.bad-wrong-type":               {status: 400, code: "wrong_type"},
	"reject.bad-unknown-tenant":           {code: "not_found"},
	"create-promise.http-on-timeout":      {status: 201, created: true},
	"create-promise.direct-on-timeout":    {created: true},
	"create-promise.bad-on-timeout":       {status: 400, code: "duplicate_field", created: true},
	"get-promise.bad-wait":                {code: "unknown_field"},
	"wait-promise.http":                   {status: 200},
	"wait-promise.direct":                 {},
	"wait-promise.bad-too-long":           {status: 400, code: "out_of_range"},
	"resolve.http-hold":                   {status: 202, created: true},
	"resolve.http-comment":                {status: 200},
	"resolve.bad-hold-by-id":              {status: 400, code: "unknown_field"},
	"resolve.bad-comment":                 {status: 400, code: "out_of_range"},
	"resolve-by-key.direct-hold":          {created: true},
	"reject.http-hold":                    {status: 202, created: true},
	"reject.direct-comment":               {},
	"cancel-promise.http":                 {status: 200},
	"cancel-promise.http-reason":          {status: 200},
	"cancel-promise.direct":               {},
	"cancel-promise.bad-reason":           {status: 400, code: "out_of_range"},
	"extend-promise.http":                 {status: 200},
	"extend-promise.http-at":              {status: 200},
	"extend-promise.direct":               {},
	"extend-promise.bad-both":             {status: 400, code: "duplicate_field"},
	"extend-promise.bad-nothing":          {code: "missing_field"},
	"list-promises.http":                  {status: 200},
	"list-promises.http-filtered":         {status: 200},
	"list-promises.http-due":              {status: 200},
	"list-promises.bad-name-alone":        {status: 400, code: "invalid_parameter"},
	"list-promises.bad-timeout-before":    {code: "invalid_parameter"},
	"list-promises.direct":                {},
	"list-promises.bad-cursor":            {status: 400, code: "invalid_parameter"},
	"list-promises.bad-state":             {status: 400, code: "invalid_parameter"},
	"list-promises.bad-limit":             {code: "out_of_range"},
	"list-events.http":                    {status: 200},
	"list-events.bad-wait":                {status: 400, code: "invalid_parameter"},
	"wait-events.http":                    {status: 200},
	"wait-events.direct":                  {},
	"list-events.direct":                  {},
	"list-events.bad-after":               {status: 400, code: "out_of_range"},
	"batch-resolve.http":                  {status: 200},
	"batch-resolve.direct":                {},
	"batch-resolve.bad-no-items":          {status: 400, code: "out_of_range"},
	"batch-resolve.bad-wrong-type":        {code: "wrong_type"},
	"resolve.http-key64":                  {status: 200},
	"resolve.http-gzip":                   {status: 200},
	"resolve.bad-key64":                   {status: 400, code: "invalid_identifier"},
	"resolve.bad-content-encoding":        {status: 415, code: "unsupported_media_type"},
	"resolve.bad-utf16":                   {status: 400, code: "invalid_utf8"},
	"get-promise.http-key64":              {status: 200},
	"create-promise.http-leap-second":     {status: 201, created: true},
	"extend-promise.direct-number":        {},
	"resolve.http-token":                  {status: 200},
	"resolve.bad-no-credential":           {status: 401, code: "unauthenticated"},
	"resolve.bad-scope":                   {status: 403, code: "forbidden"},
	"reject.bad-token-verb":               {status: 403, code: "forbidden"},
	"get-promise.bad-foreign-key":         {status: 404, code: "not_found"},
	"create-promise.http-tokens":          {status: 201, created: true},
	"create-promise.bad-tokens":           {status: 400, code: "out_of_range", created: true},
	"settle-callback.http":                {status: 200},
	"settle-callback.http-path":           {status: 200},
	"settle-callback.http-raw":            {status: 200},
	"settle-callback.bad-no-token":        {status: 401, code: "unauthenticated"},
	"settle-callback.bad-token":           {status: 403, code: "forbidden"},
	"settle-callback.bad-two-tokens":      {status: 403, code: "forbidden"},
	"settle-callback.bad-binary":          {status: 400, code: "invalid_utf8"},
	"settle-callback.bad-direct":          {code: "forbidden"},
	"revoke-tokens.http":                  {status: 200},
	"revoke-tokens.direct":                {},
	"revoke-tokens.bad-unknown-key":       {code: "not_found"},
	"delete-promise.http":                 {status: 200, settled: true},
	"delete-promise.direct":               {settled: true},
	"delete-promise.bad-pending":          {status: 409, code: "conflict"},
	"delete-promise.bad-scope":            {status: 403, code: "forbidden", settled: true},
	"delete-promise.bad-unknown-key":      {code: "not_found", settled: true},

	"create-promise.http-notify":               {status: 201, created: true},
	"create-promise.direct-notify":             {delivery: promise.DeliveryDead},
	"create-promise.bad-notify":                {status: 422, code: "invalid_notify", created: true},
	"create-promise.bad-unknown-destination":   {code: "unknown_destination", created: true},
	"create-promise.bad-disabled-destination":  {status: 409, code: "destination_disabled", delivery: promise.DeliveryDead, disabled: true},
	"list-deliveries.http":                     {status: 200, delivery: promise.DeliveryDead},
	"list-deliveries.http-filtered":            {status: 200, delivery: promise.DeliveryDead},
	"list-deliveries.direct":                   {delivery: promise.DeliveryDead},
	"list-deliveries.bad-state":                {status: 400, code: "invalid_parameter", delivery: promise.DeliveryDead},
	"list-deliveries.bad-promise-id":           {code: "invalid_uuid", delivery: promise.DeliveryDead},
	"retry-deliveries.http":                    {status: 202, delivery: promise.DeliveryDelivered},
	"retry-deliveries.http-many":               {status: 202, delivery: promise.DeliveryDead},
	"retry-deliveries.direct":                  {delivery: promise.DeliveryDead},
	"retry-deliveries.direct-many":             {delivery: promise.DeliveryDead},
	"retry-deliveries.bad-scope":               {status: 403, code: "forbidden", delivery: promise.DeliveryDead},
	"retry-deliveries.bad-id":                  {status: 400, code: "invalid_uuid", delivery: promise.DeliveryDead},
	"retry-deliveries.bad-state":               {status: 400, code: "out_of_range", delivery: promise.DeliveryDead},
	"retry-deliveries.bad-waiting":             {code: "conflict", delivery: promise.DeliveryWaiting},
	"retry-deliveries.bad-unknown-destination": {code: "unknown_destination", delivery: promise.DeliveryDead},
	"manage-integrations.http-put":             {status: 201},
	"manage-integrations.http-put-again":       {status: 200, put: true},
	"manage-integrations.http-pause":           {status: 200, put: true},
	"manage-integrations.http-get":             {status: 200, put: true, reads: true},
	"manage-integrations.http-list":            {status: 200, put: true, reads: true},
	"manage-integrations.http-delete":          {status: 200, put: true},
	"manage-integrations.http-rotate":          {status: 200, put: true},
	"manage-integrations.http-test":            {status: 200, put: true, reads: true},
	"manage-integrations.http-default":         {status: 200, put: true},
	"manage-integrations.put":                  {},
	"manage-integrations.get":                  {put: true, reads: true},
	"manage-integrations.list":                 {reads: true},
	"manage-integrations.delete":               {put: true},
	"manage-integrations.rotate":               {put: true},
	"manage-integrations.test":                 {put: true, reads: true},
	"manage-integrations.default":              {put: true},
	"manage-integrations.bad-action":           {code: "out_of_range"},
	"manage-integrations.bad-kind":             {status: 403, code: "forbidden"},
	"manage-integrations.bad-private-address":  {status: 400, code: "out_of_range"},
	"manage-integrations.bad-scope":            {status: 403, code: "forbidden", put: true},
	"manage-integrations.bad-default":          {code: "unknown_destination"},
	"manage-integrations.bad-unknown":          {status: 404, code: "not_found"},

	"receive-webhook.http":               {status: 200, github: true},
	"receive-webhook.http-form":          {status: 200, github: true},
	"receive-webhook.http-ping":          {status: 200, github: true, reads: true},
	"receive-webhook.bad-rule":           {status: 422, code: "rule_failed", github: true, records: true},
	"receive-webhook.bad-signature":      {status: 401, code: "unauthenticated", github: true},
	"receive-webhook.bad-checksum":       {status: 401, code: "unauthenticated", github: true},
	"receive-webhook.bad-unknown-source": {status: 401, code: "unauthenticated"},
	"receive-webhook.bad-direct":         {code: "forbidden"},

	"list-receipts.http":              {status: 200},
	"list-receipts.http-filtered":     {status: 200},
	"list-receipts.direct":            {},
	"list-receipts.direct-of-promise": {},
	"list-receipts.bad-outcome":       {status: 400, code: "invalid_parameter"},
	"list-receipts.bad-source":        {code: "invalid_name"},

	"manage-integrations.http-put-source":           {status: 201},
	"manage-integrations.http-put-source-again":     {status: 200, source: true},
	"manage-integrations.http-put-source-github":    {status: 201},
	"manage-integrations.http-put-source-hmac":      {status: 201},
	"manage-integrations.http-disable-source":       {status: 200, source: true},
	"manage-integrations.http-get-source":           {status: 200, source: true, reads: true},
	"manage-integrations.http-list-sources":         {status: 200, source: true, reads: true},
	"manage-integrations.http-delete-source":        {status: 200, source: true},
	"manage-integrations.http-rotate-source-secret": {status: 200, source: true},
	"manage-integrations.http-test-source":          {status: 200, source: true, reads: true},
	"manage-integrations.http-replay-receipt":       {status: 200, receipt: true},
	"manage-integrations.put-source":                {},
	"manage-integrations.get-source":                {source: true, reads: true},
	"manage-integrations.list-sources":              {reads: true},
	"manage-integrations.enable-source":             {source: true, reads: true}, // it is enabled
	"manage-integrations.delete-source":             {source: true},
	"manage-integrations.rotate-source-secret":      {source: true},
	"manage-integrations.test-source":               {source: true, reads: true},
	"manage-integrations.replay-receipt":            {receipt: true},
	"manage-integrations.bad-source-rule":           {status: 400, code: "out_of_range"},
	"manage-integrations.bad-source-field":          {status: 400, code: "unknown_field"},
	"manage-integrations.bad-source-scope":          {status: 403, code: "forbidden", source: true},
	"manage-integrations.bad-source-secret":         {code: "out_of_range"},
	"manage-integrations.bad-source-test":           {code: "missing_field", source: true},
	"manage-integrations.bad-unknown-receipt":       {code: "not_found"},
}

func TestSampleEvents(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../events/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	seen := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		function, form, _ := strings.Cut(name, ".")
		if _, ok := operations[function]; !ok { // not an operation of the gateway: tests of other packages invoke it
			continue
		}
		want, ok := samples[name]
		require.True(t, ok, "%s has no expected answer here", file)
		seen++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			if !want.created {
				s.promise(t)
			}
			if want.put {
				s.destination(t)
			}
			if want.source {
				s.source(t, "")
			}
			if want.receipt {
				s.receipt(t)
			}
			if want.github {
				s.github(t)
			}
			if want.settled {
				s.answer(t, "resolve-by-id", payloadByID+`,"value":1}`)
			}
			if want.delivery != "" {
				s.delivery(t, deliveryID, want.delivery)
			}
			if want.disabled {
				s.db.Exec(t, "UPDATE destination SET enabled = FALSE, disabled_because = 'It answered 410 Gone.'")
			}
			before := s.snapshot(t)
			payload, err := os.ReadFile(file)
			require.NoError(t, err)
			got, err := s.handler(t, function).Invoke(t.Context(), payload)
			if want.status == 0 {
				if want.code == "" {
					require.NoError(t, err)
				} else {
					requireFunctionError(t, want.code, err)
				}
			} else {
				require.NoError(t, err)
				a := decodeResponse(t, got)
				require.Equal(t, want.status, a.StatusCode, a.Body)
				if want.code != "" {
					requireProblem(t, want.status, want.code, a)
				}
			}
			changes := want.records || want.code == "" && !want.reads && function != "get-promise" && !strings.HasPrefix(function, "list-") && !strings.HasPrefix(function, "wait-")
			require.Equal(t, changes, before != s.snapshot(t), "a call writes unless it is refused or only reads")
			require.Equal(t, want.code != "", strings.HasPrefix(form, "bad-"), "the names of refused events begin with bad-")
			require.True(t, json.Valid(payload))
		})
	}
	require.Equal(t, len(samples), seen, "an expected sample does not exist")
}
