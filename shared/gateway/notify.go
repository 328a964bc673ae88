package gateway

import (
	"encoding/json"
	"strconv"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

// tokenFields has, for each kind that takes a token, the name of the token's field.
var tokenFields = map[promise.DestinationKind]string{
	promise.DestinationStepFunctions:    "taskToken",
	promise.DestinationDurableExecution: "callbackId",
}

// readNotify reads the targets of a promise. It returns nil if notify is absent, and
// an empty list for []. No error contains a token.
func readNotify(o object) ([]promise.Target, error) {
	const name = "notify"
	raw, ok := o.get(name)
	if !ok {
		return nil, nil
	}
	if raw[0] != '[' {
		return nil, fieldError(name, promise.CodeWrongType, "notify must be an array of targets. Send [] for none.")
	}
	targets := []promise.Target{}
	for text := range rawjson.Elements(raw) {
		if len(targets) == promise.MaxTargets {
			return nil, fieldError(name, promise.CodeInvalidNotify, "notify may have at most "+strconv.Itoa(promise.MaxTargets)+" targets.")
		}
		target, err := readTarget(text)
		if err == nil {
			err = checkNew(targets, target)
		}
		if err != nil {
			return nil, within(name+"["+strconv.Itoa(len(targets))+"]", err)
		}
		targets = append(targets, target)
	}
	return targets, nil
}

// readTarget reads {"stepFunctions": {"taskToken", "destination"?}},
// {"durableExecution": {"callbackId", "destination"?}} or {"destination"}.
func readTarget(text json.RawMessage) (t promise.Target, err error) {
	o, err := parseObject(text, []string{string(promise.DestinationStepFunctions), string(promise.DestinationDurableExecution), "destination"})
	switch {
	case err != nil:
		return t, err
	case len(o) == 0:
		return t, promise.Fail(promise.CodeMissingField, `The target is empty. Send {"stepFunctions": {...}}, {"durableExecution": {...}} or {"destination": "name"}.`)
	case len(o) > 1:
		return t, promise.Fail(promise.CodeDuplicateField, "A target has one of stepFunctions, durableExecution and destination. Send a target for each.")
	}
	field := string(o[0].Name)
	if field == "destination" {
		t.Destination, err = readTargetDestination(o)
		return t, err
	}
	t.Kind = promise.DestinationKind(field)
	tokenField := tokenFields[t.Kind]
	if o, err = parseObject(o[0].Raw, []string{tokenField, "destination"}); err != nil {
		return t, within(field, err)
	}
	if t.Token, err = o.requiredText(tokenField); err != nil {
		return t, within(field, err)
	}
	if err := promise.CheckToken(t.Kind, t.Token); err != nil {
		return t, within(field, within(tokenField, err))
	}
	if _, named := o.get("destination"); named {
		t.Destination, err = readTargetDestination(o)
	}
	return t, within(field, err)
}

// readTargetDestination reads the required name of a destination.
func readTargetDestination(o object) (string, error) {
	const field = "destination"
	name, err := o.requiredText(field)
	if err != nil {
		return "", err
	}
	return name, within(field, promise.CheckDestinationName(name))
}

// checkNew returns an error if the list has the target already: the same message, or
// the same token.
func checkNew(targets []promise.Target, target promise.Target) error {
	for i, t := range targets {
		before := "notify[" + strconv.Itoa(i) + "]"
		switch {
		case target.Token == "" && t.Token == "" && target.Destination == t.Destination:
			return fieldError("destination", promise.CodeInvalidNotify, before+" names the same destination. Name each once.")
		case target.Token != "" && target.Token == t.Token:
			return fieldError(string(target.Kind)+"."+tokenFields[target.Kind], promise.CodeInvalidNotify, before+" has the same token. Send each once.")
		}
	}
	return nil
}
