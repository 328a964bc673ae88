package client

import (
	"encoding/base64"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// An Identifier names a promise, by its id or by its idempotency key.
type Identifier struct {
	id    uuid.UUID
	key   string
	isKey bool
}

// ID identifies a promise by its id. A call by id is always for the same promise.
func ID(id uuid.UUID) Identifier { return Identifier{id: id} }

// Key identifies a promise by its idempotency key. A call by key is for the promise that
// the key names at that moment.
func Key(key string) Identifier { return Identifier{key: key, isKey: true} }

// ParseIdentifier parses the text of an identifier: id:, key: or key64: and the rest. It
// fails with CodeInvalidUUID or CodeInvalidIdentifier.
func ParseIdentifier(s string) (Identifier, error) {
	form, rest, _ := strings.Cut(s, ":")
	switch form {
	case "id":
		id, err := uuid.Parse(rest)
		if err != nil || len(rest) != 36 {
			return Identifier{}, &Error{Code: CodeInvalidUUID, Detail: "An id is a UUID of 8-4-4-4-12 hexadecimal digits."}
		}
		return ID(id), nil
	case "key":
		return Key(rest), nil
	case "key64":
		key, err := base64.RawURLEncoding.Strict().DecodeString(rest)
		if err != nil || strings.ContainsAny(rest, "\r\n") {
			return Identifier{}, &Error{Code: CodeInvalidIdentifier, Detail: "key64: takes the key in base64url, without padding."}
		}
		return Key(string(key)), nil
	}
	return Identifier{}, &Error{Code: CodeInvalidIdentifier, Detail: "An identifier begins with id:, key: or key64:."}
}

// String returns the form that every path and every batch takes: id:{uuid}, key:{key}, or
// key64:{the key in base64url} if a path cannot carry the key as it is.
func (i Identifier) String() string {
	if !i.isKey {
		return "id:" + i.id.String()
	}
	return inPath("key", i.key)
}

// MarshalText returns the form of String.
func (i Identifier) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText parses a text as ParseIdentifier does.
func (i *Identifier) UnmarshalText(text []byte) (err error) {
	*i, err = ParseIdentifier(string(text))
	return err
}

// target returns the fields that name the promise in a direct invoke, and the path.
func (i Identifier) target() (list []Field, path string, err error) {
	var f fields
	if i.isKey {
		f.text("key", i.key)
	} else {
		f.text("promiseId", i.id.String())
	}
	return f.list, "/promises/" + i.String(), f.err
}

// inPath returns form:{text} if a path carries the text as it is, and form64:{text in
// base64url} otherwise. API Gateway decodes a path before it routes, so an escaped slash
// or question mark would lead to another path.
func inPath(form, text string) string {
	other := strings.ContainsFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._~:-", r)
	})
	if other || strings.Trim(text, ".") == "" && text != "" {
		return form + "64:" + base64.RawURLEncoding.EncodeToString([]byte(text))
	}
	return form + ":" + text
}

// A Workflow names a workflow execution.
type Workflow struct {
	id   uuid.UUID
	text string
}

// WorkflowID names a workflow execution by the engine's own id, 1 to 255 characters, such
// as the ARN of an execution of Step Functions.
func WorkflowID(text string) Workflow { return Workflow{text: text} }

// WorkflowExecutionID names a workflow execution by a UUID. The UUID is random, and belongs
// to one execution: ids are global, and the tenant that uses one first owns it.
func WorkflowExecutionID(id uuid.UUID) Workflow { return Workflow{id: id} }

// add adds the field that names the workflow execution, unless w is the zero Workflow.
func (w Workflow) add(f *fields) {
	switch {
	case w.text != "":
		f.text("workflowId", w.text)
	case w.id != uuid.Nil:
		f.text("workflowExecutionId", w.id.String())
	}
}

// target returns the fields that name the workflow execution in a direct invoke, and the
// path.
func (w Workflow) target() (list []Field, path string, err error) {
	var f fields
	w.add(&f)
	switch {
	case f.err != nil:
	case w.text != "":
		path = inPath("workflowId", w.text)
	case w.id != uuid.Nil:
		path = w.id.String()
	default:
		f.fail(&Error{Code: CodeMissingField, Field: "workflowExecutionId", Detail: "Name the workflow execution with WorkflowID or WorkflowExecutionID."})
	}
	return f.list, "/workflows/" + path + "/events", f.err
}

// named returns the target and the path of a destination or a source. A name that cannot
// be one is an error here, because in a path it could name something else.
func named(folder, name string) (list []Field, path string, err error) {
	valid := name != "" && utf8.ValidString(name) && url.PathEscape(name) == name && !strings.Contains(name, ".")
	if !valid {
		err = &Error{Code: CodeInvalidName, Field: "name", Detail: "A name has lower-case letters, digits and hyphens."}
	}
	return []Field{{"name", quote(name)}}, "/" + folder + "/" + name, err
}
