package gateway

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"time"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

// An event holds the parts of an API Gateway event that a call uses.
type event struct {
	tenant      string
	principal   promise.Principal
	domain      string
	identifier  string
	workflow    string
	delivery    *string // nil: the route has none
	receipt     string
	name        string
	query       json.RawMessage // an object of strings, or nil
	contentType *string
	body        []byte
	malformed   error // why the body cannot be decoded; nil: it can
	received    time.Time

	contentEncoding string

	routeKey      string
	authorization string
	rawQuery      string
	token         string          // in the path
	source        string          // in the path: the last part of a source's URL
	headers       json.RawMessage // an object of strings, or nil
}

// readEvent reads a payload that may be an API Gateway HTTP API event, payload format
// 2.0. isEvent reports whether it is one: no direct payload has its fields. readEvent
// trusts the form that API Gateway gives an event, and does not check the body's
// contents.
func readEvent(payload []byte) (ev event, isEvent bool) {
	var body json.RawMessage
	version, context, encoded := false, false, false
	for f := range rawjson.Fields(payload) {
		switch string(f.Name) {
		case "version":
			version = string(f.Raw) == `"2.0"`
		case "routeKey":
			ev.routeKey = rawjson.Unquote(f.Raw)
		case "rawQueryString":
			ev.rawQuery = rawjson.Unquote(f.Raw)
		case "pathParameters":
			ev.readPath(f.Raw)
		case "queryStringParameters":
			ev.query = f.Raw
		case "requestContext":
			context = true
			ev.readContext(f.Raw)
		case "headers":
			ev.headers = f.Raw
			ev.readHeaders(f.Raw)
		case "body":
			body = f.Raw
		case "isBase64Encoded":
			encoded = string(f.Raw) == "true"
		}
	}
	if !version || !context {
		return event{}, false
	}
	ev.readBody(body, encoded)
	return ev, true
}

func (ev *event) readBody(body json.RawMessage, encoded bool) {
	text := rawjson.Unquote(body)
	if !encoded {
		ev.body = []byte(text)
		return
	}
	var err error
	if ev.body, err = base64.StdEncoding.DecodeString(text); err != nil {
		ev.malformed = promise.Fail(promise.CodeMalformedJSON, "isBase64Encoded is true but the body is not base64.")
	}
}

func (ev *event) readContext(context json.RawMessage) {
	for f := range rawjson.Fields(context) {
		switch string(f.Name) {
		case "domainName":
			ev.domain = rawjson.Unquote(f.Raw)
		case "timeEpoch":
			if ms, err := strconv.ParseInt(string(f.Raw), 10, 64); err == nil {
				ev.received = time.UnixMilli(ms)
			}
		case "authorizer":
			ev.principal = readPrincipal(f.Raw)
		}
	}
}

func (ev *event) readHeaders(headers json.RawMessage) {
	for f := range rawjson.Fields(headers) {
		switch string(f.Name) {
		case "content-type":
			s := rawjson.Unquote(f.Raw)
			ev.contentType = &s
		case "content-encoding":
			ev.contentEncoding = rawjson.Unquote(f.Raw)
		case "authorization":
			ev.authorization = rawjson.Unquote(f.Raw)
		}
	}
}

func (ev *event) readPath(variables json.RawMessage) {
	for f := range rawjson.Fields(variables) {
		switch string(f.Name) {
		case "slug":
			ev.tenant = rawjson.Unquote(f.Raw)
		case "identifier":
			ev.identifier = rawjson.Unquote(f.Raw)
		case "workflowExecutionId":
			ev.workflow = rawjson.Unquote(f.Raw)
		case "deliveryId":
			id := rawjson.Unquote(f.Raw)
			ev.delivery = &id
		case "receiptId":
			ev.receipt = rawjson.Unquote(f.Raw)
		case "name":
			ev.name = rawjson.Unquote(f.Raw)
		case "token":
			ev.token = rawjson.Unquote(f.Raw)
		case "source":
			ev.source = rawjson.Unquote(f.Raw)
		}
	}
}

// readPrincipal reads the principal that the authorizer found.
func readPrincipal(authorizer json.RawMessage) promise.Principal {
	texts := map[string]string{}
	for f := range rawjson.Fields(authorizer) {
		if string(f.Name) == "lambda" {
			for p := range rawjson.Fields(f.Raw) {
				texts[string(p.Name)] = rawjson.Unquote(p.Raw)
			}
		}
	}
	if texts["kind"] == string(promise.KindUnverified) {
		return promise.Principal{By: promise.By{Kind: promise.KindUnverified}}
	}
	return promise.ParsePrincipal(texts, time.Now())
}
