package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-lambda-go/cfn"

	"github.com/flovyn/promises/shared/rawjson"
)

// options are the fields of a payload, or the flags of the command line.
type options struct {
	DryRun           bool
	Roles            bool
	RotateSigningKey bool
	Revoke           bool // ends the tokens of earlier signing keys
	RotateSealingKey bool
}

// check returns an error if the options exclude each other.
func (o options) check() error {
	switch {
	case o.DryRun && o.Roles:
		return errors.New("roles cannot be rehearsed, because all databases of the server share them: leave out roles or the dry run")
	case o.DryRun && o.RotateSigningKey:
		return errors.New("a rotation of the signing key cannot be rehearsed, because the secret is outside the database: leave out rotateSigningKey or the dry run")
	case o.DryRun && o.RotateSealingKey:
		return errors.New("a rotation of the sealing key cannot be rehearsed, because the secret is outside the database: leave out rotateSealingKey or the dry run")
	case o.Revoke && !o.RotateSigningKey:
		return errors.New("revoke ends the tokens of earlier signing keys: it needs rotateSigningKey")
	}
	return nil
}

// eventFields are the fields of CloudFormation's events that readEvent reads.
var eventFields = []string{
	"RequestType", "RequestId", "ResponseURL", "ResourceType", "LogicalResourceId", "PhysicalResourceId", "StackId",
	"ResourceProperties", "OldResourceProperties",
}

// readPayload reads {}, {"dryRun": true}, {"roles": true}, {"rotateSigningKey": true}
// (with or without {"revoke": true}), {"rotateSealingKey": true} or the event of a CloudFormation custom
// resource; then event is not nil. It refuses every other payload, because a
// misspelt dry run must not run the migration.
func readPayload(payload []byte) (o options, event *cfn.Event, err error) {
	fields, err := readObject(payload)
	if err != nil {
		return o, nil, err
	}
	if _, ok := fields["RequestType"]; ok {
		event, err = readEvent(fields)
		return o, event, err
	}
	for name, value := range fields {
		var flag *bool
		switch name {
		case "dryRun":
			flag = &o.DryRun
		case "roles":
			flag = &o.Roles
		case "rotateSigningKey":
			flag = &o.RotateSigningKey
		case "revoke":
			flag = &o.Revoke
		case "rotateSealingKey":
			flag = &o.RotateSealingKey
		default:
			return o, nil, fmt.Errorf("The payload has the unknown field %.100q: its fields are dryRun, roles, rotateSigningKey, revoke and rotateSealingKey.", name)
		}
		if string(value) != "true" && string(value) != "false" {
			return o, nil, fmt.Errorf("The field %s must be true or false.", name)
		}
		*flag = string(value) == "true"
	}
	return o, nil, nil
}

func readEvent(fields map[string]json.RawMessage) (*cfn.Event, error) {
	known := map[string]json.RawMessage{} // encoding/json would read requesttype as RequestType
	for _, name := range eventFields {
		if value, ok := fields[name]; ok {
			known[name] = value
		}
	}
	text, err := json.Marshal(known)
	if err != nil {
		return nil, err
	}
	var event cfn.Event
	if err := json.Unmarshal(text, &event); err != nil {
		return nil, errors.New("The payload has a RequestType but is not a CloudFormation event: a field has the wrong JSON type.")
	}
	if !slices.Contains([]cfn.RequestType{cfn.RequestCreate, cfn.RequestUpdate, cfn.RequestDelete}, event.RequestType) {
		return nil, errors.New("The field RequestType must be Create, Update or Delete.")
	}
	if event.ResponseURL == "" {
		return nil, errors.New("The field ResponseURL is required in a CloudFormation event.")
	}
	return &event, nil
}

// readObject reads a JSON object with fields of any name, and words the errors.
func readObject(text []byte) (map[string]json.RawMessage, error) {
	fields, err := rawjson.ParseAny(text)
	if err == nil {
		return fields, nil
	}
	e := new(rawjson.Error)
	errors.As(err, &e)
	switch e.Kind {
	case rawjson.DuplicateField:
		return nil, fmt.Errorf("The payload has the field %.100q twice: send it once.", e.Field)
	case rawjson.NotObject:
		return nil, errors.New("The payload must be a JSON object.")
	}
	return nil, errors.New("The payload must be one valid JSON object with nothing after it.")
}
