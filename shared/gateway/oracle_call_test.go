package gateway_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/flovyn/promises/shared/promise"
)

// calls returns the store calls that the function must make: one, or none if the call is refused or no item of a batch is valid.
func (o *oracle) calls(function string) []storeCall {
	method, args := "", []any(nil)
	switch function {
	case "create-promise":
		method, args = "Create", []any{o.draft()}
	case "extend-promise":
		timeout, at := o.promiseDeadline()
		o.refuse(timeout == nil && at == nil)
		method, args = "Extend", []any{promise.Deadline{Timeout: timeout, At: at}}
	case "revoke-tokens":
		method = "RevokeTokens"
	case "delete-promise":
		method = "Erase"
	case "get-promise", "wait-promise":
		if function == "wait-promise" {
			o.integer(o.query, o.isText, "waitSeconds", 0, 25)
		}
		method = "Get"
	case "list-promises":
		method, args = "ListPromises", []any{o.filter(), o.orDefault(o.integer(o.query, o.isText, "limit", 1, 100), 100)}
	case "list-deliveries":
		method, args = "ListDeliveries", []any{o.deliveryFilter(), o.orDefault(o.integer(o.query, o.isText, "limit", 1, 100), 100)}
	case "list-receipts":
		method, args = "ListReceipts", []any{o.receiptFilter(), o.orDefault(o.integer(o.query, o.isText, "limit", 1, 100), 100)}
	case "retry-deliveries":
		if o.delivery != nil {
			o.refuse(o.body["destination"] != nil || o.body["state"] != nil)
			method, args = "RetryDelivery", []any{*o.delivery}
			break
		}
		destination := *o.required("destination")
		o.refuse(!isPlace(destination) || *o.required("state") != "dead")
		method, args = "RetryDeadDeliveries", []any{destination, int64(100)}
	case "list-events", "wait-events":
		if function == "wait-events" {
			o.integer(o.query, o.isText, "waitSeconds", 0, 25)
		}
		after := o.orDefault(o.integer(o.query, o.isText, "after", 0, 2147483647), 0)
		method, args = "ListEvents", []any{o.workflow, after, o.orDefault(o.integer(o.query, o.isText, "limit", 1, 100), 100)}
	case "batch-resolve":
		items := o.items()
		if method, args = "SettleBatch", []any{items}; len(items) == 0 && !o.refused {
			return nil
		}
	default:
		method, args = o.settlement(function)
	}
	if o.refused {
		return nil
	}
	c := storeCall{method: method, tenant: o.tenant, target: o.target, args: args}
	if strings.HasPrefix(method, "Settle") {
		c.by = o.by
	}
	return []storeCall{c}
}

func (o *oracle) settlement(function string) (method string, args []any) {
	s := promise.SettleRequest{Comment: o.comment("comment")}
	switch function {
	case "reject":
		s.Result = promise.Result{State: promise.Rejected, Message: o.required("error")}
		o.refuse(len(o.body["error"]) > o.limit)
	case "cancel-promise":
		s.Result = promise.Result{State: promise.Cancelled, Message: o.comment("reason")}
	default:
		s.Result = promise.Result{State: promise.Resolved, Value: o.value("value")}
	}
	if strict, ok := o.query["strict"]; ok {
		o.refuse(string(strict) != "true" && string(strict) != "false" && !o.isText)
		o.refuse(o.isText && plain(strict) != "true" && plain(strict) != "false")
	}
	if hold := o.integer(o.body, false, "holdSeconds", 1, 604800); hold != nil {
		o.refuse(!strings.HasPrefix(o.target, "key:"))
		return "SettleEarly", []any{s, time.Duration(*hold) * time.Second}
	}
	return "Settle", []any{s}
}

func (o *oracle) draft() promise.Draft {
	o.readWorkflow()
	d := promise.Draft{
		WorkflowExecutionID: o.workflow, ExternalID: o.externalID, Name: *o.required("name"), IdempotencyKey: o.text("idempotencyKey"),
	}
	o.refuse(!nameText.MatchString(d.Name))
	ttl := o.integer(o.body, false, "idempotencyKeyTtlSeconds", 1, 315532800)
	if d.IdempotencyKey != nil {
		o.refuse(!keyText.MatchString(*d.IdempotencyKey))
		d.IdempotencyKeyTTL = time.Duration(o.orDefault(ttl, 86400)) * time.Second
	} else {
		o.refuse(ttl != nil)
	}
	d.Timeout, d.TimeoutAt = o.promiseDeadline()
	if raw, ok := o.body["onTimeout"]; ok {
		in := oracle{limit: o.limit}
		in.body = in.object(raw, []string{"resolve", "reject"})
		in.refuse(len(in.body) != 1)
		if in.body["resolve"] != nil {
			d.OnTimeout = &promise.Result{State: promise.Resolved, Value: in.value("resolve")}
		} else {
			d.OnTimeout = &promise.Result{State: promise.Rejected, Message: in.required("reject")}
			in.refuse(len(in.body["reject"]) > o.limit)
		}
		o.refuse(in.refused)
	}
	if raw, ok := o.body["metadata"]; ok {
		size := len(raw)
		o.refuse(raw[0] != '{' || doubled(json.NewDecoder(bytes.NewReader(raw))))
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		for depth := 0; ; {
			token, err := dec.Token()
			if err != nil {
				break
			}
			switch v := token.(type) {
			case json.Delim:
				if depth--; v == '{' || v == '[' {
					depth += 2
				}
			case json.Number:
				digits, exponent, _ := strings.Cut(strings.ToLower(string(v)), "e")
				n, err := strconv.ParseInt("0"+strings.TrimLeft(exponent, "+-0"), 10, 32)
				o.refuse(err != nil || len(digits) > 300 || n > 300)
				size += int(n)
			}
			if _, isDelim := token.(json.Delim); depth > 100 || depth == 100 && !isDelim {
				o.refused = true
			}
		}
		o.refuse(size > 64<<10 || !storable(raw))
		d.Metadata = raw
	}
	if raw, ok := o.body["tokens"]; ok {
		in := oracle{}
		in.refuse(o.isText && (!uuidText.MatchString(o.keyID) || !slices.Contains(o.scopes, "settle")))
		in.body = in.object(raw, []string{"verbs", "ttlSeconds", "body"})
		if body := in.text("body"); body != nil {
			in.refuse(*body != "raw" && *body != "json")
		}
		var verbs []string
		in.refuse(json.Unmarshal(in.body["verbs"], &verbs) != nil || len(verbs) == 0 || len(verbs) > 2 || len(verbs) == 2 && verbs[0] == verbs[1])
		for _, v := range verbs {
			in.refuse(v != "resolve" && v != "reject")
		}
		in.refuse(in.integer(in.body, false, "ttlSeconds", 1, 31536000) == nil)
		o.refuse(in.refused)
	}
	if raw, ok := o.body["notify"]; ok {
		d.Notify = o.targets(raw)
	}
	return d
}

func (o *oracle) targets(raw json.RawMessage) []promise.Target {
	var texts []json.RawMessage
	o.refuse(json.Unmarshal(raw, &texts) != nil || texts == nil || len(texts) > 4)
	targets, seen := []promise.Target{}, map[string]bool{}
	for _, text := range texts {
		in, t := oracle{}, promise.Target{}
		in.body = in.object(text, []string{"stepFunctions", "durableExecution", "destination"})
		in.refuse(len(in.body) != 1)
		for kind, token := range map[string]string{"stepFunctions": "taskToken", "durableExecution": "callbackId"} {
			if inner, ok := in.body[kind]; ok && !in.refused {
				in.body = in.object(inner, []string{token, "destination"})
				t.Kind, t.Token = promise.DestinationKind(kind), *in.required(token)
				in.refuse(kind == "stepFunctions" && (t.Token == "" || utf8.RuneCountInString(t.Token) > 2048))
				in.refuse(kind != "stepFunctions" && (len(t.Token) > 1024 || !callbackText.MatchString(t.Token)))
				break
			}
		}
		if name := in.text("destination"); name != nil {
			in.refuse(!nameOfPlace.MatchString(*name))
			t.Destination = *name
		}
		message := t.Token
		if message == "" {
			message = "\x00" + t.Destination // no token has a NUL
		}
		o.refuse(in.refused || seen[message])
		seen[message] = true
		targets = append(targets, t)
	}
	return targets
}

// isPlace reports whether a text can be a destination's name in a filter.
func isPlace(name string) bool {
	return nameOfPlace.MatchString(name) || name == "stepFunctions" || name == "durableExecution"
}

func (o *oracle) promiseDeadline() (*time.Duration, *time.Time) {
	ms, text := o.integer(o.body, false, "timeoutMs", 0, 315532800000), o.text("timeoutAt")
	o.refuse(ms != nil && text != nil)
	if ms != nil {
		d := time.Duration(*ms) * time.Millisecond
		return &d, nil
	}
	if text == nil {
		return nil, nil
	}
	at := o.time(*text)
	o.refuse(at.UTC().Year() < 1 || at.After(time.Now().Add(3652*24*time.Hour)))
	return nil, &at
}

func (o *oracle) items() []promise.Item {
	var texts []json.RawMessage
	o.refuse(json.Unmarshal(o.body["items"], &texts) != nil || len(texts) == 0 || len(texts) > 100)
	var items []promise.Item
	for _, text := range texts {
		in := oracle{limit: o.limit}
		in.body = in.object(text, []string{"identifier", "value", "error", "comment"})
		in.identify("id: key:", *in.required("identifier"))
		item := promise.Item{Comment: in.comment("comment")}
		if _, ok := in.body["error"]; ok {
			item.Result = promise.Result{State: promise.Rejected, Message: in.required("error")}
			in.refuse(in.body["value"] != nil || len(in.body["error"]) > o.limit)
		} else {
			item.Result = promise.Result{State: promise.Resolved, Value: in.value("value")}
		}
		if o.results = append(o.results, !in.refused); !in.refused {
			item.Promise, _ = promise.ParseIdentifier(in.target)
			items = append(items, item)
		}
	}
	return items
}

func (o *oracle) filter() promise.Filter {
	var f promise.Filter
	for name := range o.query {
		s := plain(o.query[name])
		if !o.isText && slices.Contains([]string{"workflowExecutionId", "workflowId", "name", "state", "timeoutBefore", "cursor"}, name) {
			s = *o.required(name)
		}
		switch name {
		case "workflowExecutionId":
			id := o.uuid(s)
			f.WorkflowExecutionID = &id
			o.refuse(o.query["workflowId"] != nil)
		case "workflowId":
			o.external(&s)
			f.WorkflowExecutionID = &o.workflow
		case "name":
			o.refuse(!nameText.MatchString(s))
			f.Name = &s
		case "state":
			o.refuse(!slices.Contains([]string{"pending", "resolved", "rejected", "cancelled", "timed_out"}, s))
			f.State = (*promise.State)(&s)
		case "timeoutBefore":
			at := o.time(s)
			f.TimeoutBefore = &at
		case "cursor": // a fuzz target of its own tests ParseCursor
			c, err := promise.ParseCursor(s)
			o.refuse(err != nil)
			f.After = &c
		}
	}
	byDeadline, inWorkflow := f.TimeoutBefore != nil, f.WorkflowExecutionID != nil
	o.refuse(f.Name != nil && !inWorkflow)
	o.refuse(byDeadline && (inWorkflow || f.Name != nil || f.State == nil || *f.State != "pending"))
	o.refuse(f.After != nil && (f.After.TimeoutAt != nil) != byDeadline)
	return f
}

func (o *oracle) deliveryFilter() promise.DeliveryFilter {
	var f promise.DeliveryFilter
	for name := range o.query {
		s := plain(o.query[name])
		if !o.isText && slices.Contains([]string{"promiseId", "destination", "state", "cursor"}, name) {
			s = *o.required(name)
		}
		switch name {
		case "promiseId":
			id := o.uuid(s)
			f.PromiseID = &id
		case "destination":
			o.refuse(!isPlace(s))
			f.Destination = &s
		case "state":
			o.refuse(!slices.Contains([]string{"waiting", "due", "delivered", "gone", "dead"}, s))
			f.State = (*promise.DeliveryState)(&s)
		case "cursor":
			c, err := promise.ParseCursor(s)
			o.refuse(err != nil || c.TimeoutAt != nil)
			f.After = &c
		}
	}
	return f
}

func (o *oracle) receiptFilter() promise.ReceiptFilter {
	var f promise.ReceiptFilter
	for name := range o.query {
		s := plain(o.query[name])
		if !o.isText && slices.Contains([]string{"source", "outcome", "key", "promiseId", "from", "before", "cursor"}, name) {
			s = *o.required(name)
		}
		switch name {
		case "source":
			o.refuse(!sourceText.MatchString(s))
			f.Source = s
		case "outcome":
			o.refuse(!slices.Contains(strings.Fields("settled duplicate conflict timed_out cancelled held expired not_found ignored rule_failed"), s))
			f.Outcome = promise.ReceiptOutcome(s)
		case "key":
			o.refuse(!keyText.MatchString(s))
			f.Key = s
		case "promiseId":
			id := o.uuid(s)
			f.PromiseID = &id
		case "from":
			at := o.time(s)
			f.From = &at
		case "before":
			at := o.time(s)
			f.Before = &at
		case "cursor":
			c, err := promise.ParseCursor(s)
			o.refuse(err != nil || c.TimeoutAt != nil)
			f.After = &promise.ReceiptCursor{ReceivedAt: c.CreatedAt, ID: c.ID}
		}
	}
	return f
}
