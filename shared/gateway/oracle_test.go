package gateway_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"mime"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
)

// An oracle is a second reader of a call. It uses encoding/json and regular expressions
// in place of package gateway, and follows the rules in functions/README.md. It computes
// the store calls that must follow, or that the call must be refused, but no error code.
type oracle struct {
	refused bool
	limit   int // a value's size limit, in bytes

	tenant     string
	by         promise.By
	keyID      string   // HTTP form
	scopes     []string // HTTP form
	target     string
	workflow   uuid.UUID
	externalID *string // the workflowId from which workflow was derived
	delivery   *uuid.UUID
	body       map[string]json.RawMessage
	query      map[string]json.RawMessage // in the direct form, the body
	isText     bool                       // query: every value is a string
	results    []bool                     // for each item of a batch: it is valid

	webhooks gateway.Webhooks // of manage-integrations
	unread   bool             // the oracle does not know what the call must do
}

// functions holds the fields, parameters and permissions of each function.
var functions = map[string]struct {
	body, query  []string
	identifier   string // the prefixes that it may have; empty: the function takes no identifier
	scope        promise.Scope
	verb         promise.Verb
	bodyOptional bool
	ofWorkflow   bool
	ofDelivery   bool
	unrouted     bool // it has no route, and so accepts no event
}{
	"create-promise": {scope: "create", body: []string{
		"workflowExecutionId", "workflowId", "name", "idempotencyKey", "idempotencyKeyTtlSeconds", "timeoutMs", "timeoutAt", "onTimeout", "metadata", "tokens",
		"notify",
	}},
	"get-promise":  {scope: "read", identifier: "id: key:"},
	"wait-promise": {scope: "read", identifier: "id: key:", query: []string{"waitSeconds"}},
	"list-promises": {scope: "read", query: []string{
		"workflowExecutionId", "workflowId", "name", "state", "timeoutBefore", "limit", "cursor",
	}},
	"list-events": {scope: "read", query: []string{"after", "limit"}, ofWorkflow: true},
	"wait-events": {scope: "read", query: []string{"after", "limit", "waitSeconds"}, ofWorkflow: true},
	"resolve": {
		scope: "settle", verb: "resolve", identifier: "id: key:", body: []string{"value", "comment", "holdSeconds"}, query: []string{"strict"},
	},
	"resolve-by-id": {
		scope: "settle", verb: "resolve", identifier: "id:", body: []string{"value", "comment"}, query: []string{"strict"}, unrouted: true,
	},
	"resolve-by-key": {
		scope: "settle", verb: "resolve", identifier: "key:", body: []string{"value", "comment", "holdSeconds"}, query: []string{"strict"},
		unrouted: true,
	},
	"reject": {
		scope: "settle", verb: "reject", identifier: "id: key:", body: []string{"error", "comment", "holdSeconds"}, query: []string{"strict"},
	},
	"cancel-promise": {
		scope: "create", identifier: "id: key:", body: []string{"reason", "comment"}, query: []string{"strict"}, bodyOptional: true,
	},
	"extend-promise": {scope: "create", identifier: "id: key:", body: []string{"timeoutMs", "timeoutAt"}},
	"batch-resolve":  {scope: "settle", body: []string{"items"}},
	"revoke-tokens":  {scope: "create", identifier: "id: key:", body: []string{}, bodyOptional: true},
	"delete-promise": {scope: "manage", identifier: "id: key:"},

	"list-deliveries":  {scope: "read", query: []string{"promiseId", "destination", "state", "limit", "cursor"}},
	"list-receipts":    {scope: "read", query: []string{"source", "outcome", "key", "promiseId", "from", "before", "limit", "cursor"}},
	"retry-deliveries": {scope: "deliver", body: []string{"destination", "state"}, bodyOptional: true, ofDelivery: true},
}

const uuidDigits = `[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}`

var (
	uuidText       = regexp.MustCompile(`^` + uuidDigits + `$`)
	nameText       = regexp.MustCompile(`^[^\x00]{1,255}$`)
	keyText        = regexp.MustCompile(`^[^\x00\x{FFFD}]{1,255}$`)
	identifierText = regexp.MustCompile(`^(id:` + uuidDigits + `|key:[^\x00\x{FFFD}]{1,255})$`)
	numberText     = regexp.MustCompile(`^-?((?:0|[1-9][0-9]*)(?:\.[0-9]+)?)(?:[eE]([+-]?[0-9]+))?$`)
	timeText       = regexp.MustCompile(`^(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-]\d\d):(\d\d))$`)
	sourceText     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)
	nameOfPlace    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	callbackText   = regexp.MustCompile(`^[A-Za-z0-9+/]+={0,2}$`)
	character      = regexp.MustCompile(`(?s)\\u[0-9a-fA-F]{4}|\\.|.`) // one character or escape of a JSON string
)

// isHTTPEvent reports whether a payload has the event form, and whether it is odd. An odd
// payload never reaches a function: Lambda passes on only JSON, and API Gateway writes
// UTF-8 and no name twice.
func isHTTPEvent(payload []byte) (is, odd bool) {
	var ev map[string]json.RawMessage
	if json.Unmarshal(payload, &ev) != nil {
		return false, bytes.ContainsAny(payload, `\`) || bytes.Contains(payload, []byte("requestContext"))
	}
	is = string(ev["version"]) == `"2.0"` && ev["requestContext"] != nil
	return is, is && (!utf8.Valid(payload) || doubled(json.NewDecoder(bytes.NewReader(payload))))
}

// doubled reports whether an object within the next value has a name twice.
func doubled(dec *json.Decoder) bool {
	opening, _ := dec.Token()
	twice, names := false, map[any]bool{}
	if opening != json.Delim('{') && opening != json.Delim('[') {
		return false
	}
	for dec.More() {
		if opening == json.Delim('{') {
			name, _ := dec.Token()
			twice = twice || names[name]
			names[name] = true
		}
		twice = doubled(dec) || twice
	}
	_, _ = dec.Token()
	return twice
}

// readEvent reads a call in the HTTP form and returns the store calls that must follow.
func (o *oracle) readEvent(function string, payload []byte) []storeCall {
	f := functions[function]
	ev := map[string]json.RawMessage{}
	_ = json.Unmarshal(payload, &ev)
	path, headers, request := object(ev["pathParameters"]), object(ev["headers"]), object(ev["requestContext"])
	o.tenant, o.isText = plain(path["slug"]), true
	o.refuse(strings.ContainsRune(o.tenant, 0))
	if f.identifier != "" {
		o.identify(f.identifier, plain(path["identifier"]))
	}
	o.query = object(ev["queryStringParameters"])
	for name := range o.query {
		o.refuse(!slices.Contains(f.query, name))
	}

	texts := map[string]string{}
	for name, raw := range object(object(request["authorizer"])["lambda"]) {
		texts[name] = plain(raw)
	}
	if texts["kind"] == "unverified" {
		p, _ := authenticate(context.Background(), plain(headers["authorization"]), true)
		texts = p.Texts()
	}
	o.authorize(texts, f.scope, f.verb)
	o.keyID, o.scopes = texts["id"], strings.Fields(texts["scopes"])

	body := []byte(plain(ev["body"]))
	if string(ev["isBase64Encoded"]) == "true" {
		decoded, err := base64.StdEncoding.DecodeString(string(body))
		o.refuse(err != nil)
		body = decoded
	}
	if functions[function].ofWorkflow {
		segment := plain(path["workflowExecutionId"])
		if text, ok := strings.CutPrefix(segment, "workflowId:"); ok {
			o.external(&text)
		} else if encoded, ok := strings.CutPrefix(segment, "workflowId64:"); ok {
			text, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
			o.refuse(err != nil || strings.ContainsAny(encoded, "\r\n") || !utf8.Valid(text))
			o.external(new(string(text)))
		} else {
			o.workflow = o.uuid(segment)
		}
	}
	if raw, ok := path["deliveryId"]; ok && f.ofDelivery {
		id := o.uuid(plain(raw))
		o.delivery = &id
	}
	if f.body != nil && (len(body) > 0 || !f.bodyOptional) {
		o.declared(plain(headers["content-type"]))
		o.body = o.object(o.decompressed(body, plain(headers["content-encoding"])), f.body)
	}
	return o.calls(function)
}

func (o *oracle) authorize(texts map[string]string, scope promise.Scope, verb promise.Verb) {
	o.by = promise.By{Kind: promise.PrincipalKind(texts["kind"]), ID: texts["id"]}
	o.refuse(texts["tenant"] != o.tenant || o.tenant == "")
	o.refuse(!uuidText.MatchString(texts["id"]) || texts["id"] == uuid.Nil.String())
	switch texts["kind"] {
	case "key":
		o.refuse(!slices.Contains(strings.Fields(texts["scopes"]), string(scope)))
	case "token":
		id := texts["promiseId"]
		o.refuse(verb == "" || !slices.Contains(strings.Fields(texts["verbs"]), string(verb)))
		o.refuse(!uuidText.MatchString(id) || id == uuid.Nil.String() || o.target != "id:"+strings.ToLower(id))
	default:
		o.refuse(true)
	}
	if s, ok := texts["expiresAt"]; ok {
		at, err := time.Parse(time.RFC3339Nano, s)
		o.refuse(err != nil || !at.After(time.Now()))
	}
}

// readDirect reads a call in the direct form and returns the store calls that must follow.
func (o *oracle) readDirect(function string, payload []byte) []storeCall {
	f := functions[function]
	known := slices.Concat(f.body, f.query, []string{"tenant"})
	if f.identifier != "" {
		known = append(known, "promiseId", "key")
	}
	if functions[function].ofWorkflow {
		known = append(known, "workflowExecutionId", "workflowId")
	}
	if f.ofDelivery {
		known = append(known, "deliveryId")
	}
	o.body = o.object(payload, known)
	o.query, o.by = o.body, promise.By{Kind: promise.KindDirect}
	o.tenant = *o.required("tenant")
	if f.identifier != "" {
		id, key := o.text("promiseId"), o.text("key")
		o.refuse((id == nil) == (key == nil))
		if id != nil {
			o.identify(f.identifier, "id:"+*id)
		} else if key != nil {
			o.identify(f.identifier, "key:"+*key)
		}
	}
	if functions[function].ofWorkflow {
		o.readWorkflow()
	}
	if text := o.text("deliveryId"); text != nil {
		id := o.uuid(*text)
		o.delivery = &id
	}
	return o.calls(function)
}

func (o *oracle) readWorkflow() {
	id, text := o.text("workflowExecutionId"), o.text("workflowId")
	o.refuse((id == nil) == (text == nil))
	if id != nil {
		o.workflow = o.uuid(*id)
	} else if text != nil {
		o.external(text)
	}
}

func (o *oracle) external(text *string) {
	o.refuse(!keyText.MatchString(*text))
	o.workflow, o.externalID = derived(o.tenant, *text), text
}

// refuse records that the call must be refused, if the condition holds.
func (o *oracle) refuse(is bool) { o.refused = o.refused || is }

// declared reads a Content-Type header, and refuses every type but JSON in UTF-8.
func (o *oracle) declared(header string) {
	for header = strings.TrimSpace(header); header != ""; {
		one, rest, _ := strings.Cut(header, ",")
		if strings.Contains(header, `"`) {
			one, rest = header, ""
		}
		if header = strings.TrimSpace(rest); strings.TrimSpace(one) == "" {
			continue
		}
		media, params, err := mime.ParseMediaType(one)
		o.refuse(media != "application/json" && !strings.HasSuffix(media, "+json") || err != nil && params != nil)
		o.refuse(!regexp.MustCompile(`(?i)^(utf-?8|(us-)?ascii)?$`).MatchString(params["charset"]))
	}
}

func (o *oracle) decompressed(body []byte, encoding string) []byte {
	if bytes.HasPrefix(body, []byte("\x1f\x8b")) {
		r, err := gzip.NewReader(bytes.NewReader(body))
		if o.refuse(err != nil); err == nil {
			body, err = io.ReadAll(io.LimitReader(r, 6<<20+1))
			o.refuse(err != nil || len(body) > 6<<20)
		}
		return body
	}
	o.refuse(len(body) > 0 && !slices.Contains([]string{"", "identity", "gzip", "x-gzip"}, strings.ToLower(strings.TrimSpace(encoding))))
	return body
}

func (o *oracle) identify(prefixes, s string) {
	if text, ok := strings.CutPrefix(s, "key64:"); ok {
		key, err := base64.RawURLEncoding.Strict().DecodeString(text)
		o.refuse(err != nil || strings.ContainsAny(text, "\r\n"))
		s = "key:" + string(key)
	}
	prefix, rest, _ := strings.Cut(s, ":")
	o.refuse(!identifierText.MatchString(s) || !strings.Contains(prefixes, prefix))
	if o.target = s; prefix == "id" {
		o.target = "id:" + strings.ToLower(rest)
	}
}

func (o *oracle) uuid(s string) uuid.UUID {
	o.refuse(!uuidText.MatchString(s))
	id, _ := uuid.Parse(s)
	return id
}

func (o *oracle) time(s string) time.Time {
	m := timeText.FindStringSubmatch(s)
	if o.refuse(m == nil); o.refused {
		return time.Time{}
	}
	n := make([]int, len(m))
	for i, digits := range m {
		n[i], _ = strconv.Atoi(digits)
	}
	n[7], _ = strconv.Atoi((m[7] + "000000000")[:9])
	offset := time.Duration(n[8])*time.Hour + time.Duration(n[9])*time.Minute
	if strings.HasPrefix(m[8], "-") {
		offset = time.Duration(n[8])*time.Hour - time.Duration(n[9])*time.Minute
	}
	at := time.Date(n[1], time.Month(n[2]), n[3], n[4], n[5], n[6], n[7], time.UTC)
	minute := time.Date(n[1], time.Month(n[2]), n[3], n[4], n[5], 0, 0, time.UTC)
	o.refuse(n[2] < 1 || n[2] > 12 || minute.Day() != n[3] || n[4] > 23 || n[5] > 59 || n[8] > 23 || n[8] < -23 || n[9] > 59)
	o.refuse(n[6] > 60 || n[6] == 60 && minute.Add(-offset).Format("15:04") != "23:59")
	return at.Add(-offset)
}

func (o *oracle) object(text []byte, known []string) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if o.refuse(!utf8.Valid(text) || json.Unmarshal(text, &m) != nil || m == nil); o.refused {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	_, _ = dec.Token()
	for seen := map[any]bool{}; dec.More(); {
		name, _ := dec.Token()
		o.refuse(seen[name])
		seen[name] = true
		_ = dec.Decode(new(json.RawMessage))
	}
	for name := range m {
		o.refuse(!slices.Contains(known, name))
	}
	return m
}

func (o *oracle) value(name string) []byte {
	o.refuse(o.body[name] == nil || len(o.body[name]) > o.limit)
	return o.body[name]
}

func (o *oracle) text(name string) *string {
	raw, ok := o.body[name]
	if !ok {
		return nil
	}
	o.refuse(raw[0] != '"' || !storable(raw))
	s := plain(raw)
	return &s
}

func (o *oracle) required(name string) *string {
	s := o.text(name)
	if s == nil {
		o.refused, s = true, new(string)
	}
	return s
}

func (o *oracle) comment(name string) *string {
	s := o.text(name)
	o.refuse(s != nil && (*s == "" || utf8.RuneCountInString(*s) > 1000))
	return s
}

func (o *oracle) integer(from map[string]json.RawMessage, isText bool, name string, low, high int64) *int64 {
	raw, ok := from[name]
	if !ok {
		return nil
	}
	number := string(raw)
	if isText {
		number = plain(raw)
		o.refuse(strings.HasPrefix(number, "-"))
	}
	m := numberText.FindStringSubmatch(number)
	if o.refuse(m == nil); o.refused {
		return nil
	}
	if !strings.ContainsAny(m[1], "123456789") {
		number = "0"
	} else if e, err := strconv.Atoi("0" + strings.TrimLeft(m[2], "+-0")); err != nil || e > 9999 && e > 2*len(number) {
		o.refused = true // the number is a fraction or out of range
		return nil
	}
	n, _ := new(big.Rat).SetString(number)
	if o.refuse(!n.IsInt() || n.Cmp(big.NewRat(low, 1)) < 0 || n.Cmp(big.NewRat(high, 1)) > 0); o.refused {
		return nil
	}
	i := n.Num().Int64()
	return &i
}

func (o *oracle) orDefault(n *int64, value int64) int64 {
	if n == nil {
		return value
	}
	return *n
}

// storable reports whether the strings in a JSON text lose nothing when they are
// decoded and contain no NUL.
func storable(raw []byte) bool {
	for rest := raw; ; { // each round reads the next string
		begin := bytes.IndexByte(rest, '"')
		if begin < 0 {
			return true
		}
		var s json.RawMessage
		_ = json.NewDecoder(bytes.NewReader(rest[begin:])).Decode(&s)
		rest = rest[begin+len(s):]
		sent := 0
		for _, c := range character.FindAllString(string(s), -1) {
			if strings.EqualFold(c, `\ufffd`) || c == "\ufffd" {
				sent++
			}
		}
		if decoded := plain(s); strings.Count(decoded, "\ufffd") != sent || strings.ContainsRune(decoded, 0) {
			return false
		}
	}
}

// plain decodes a JSON string. For any other value it returns an empty text.
func plain(raw json.RawMessage) string {
	var s string
	_ = json.Unmarshal(raw, &s)
	return s
}

// object decodes a JSON object. For any other value it returns nil.
func object(raw json.RawMessage) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	_ = json.Unmarshal(raw, &m)
	return m
}
