package gateway

import "github.com/flovyn/promises/shared/promise"

// fieldError returns an error about one field of the call.
func fieldError(field string, code promise.Code, detail string) error {
	return &promise.Error{Code: code, Field: field, Detail: detail}
}

// within adds the field to an error. If the error has a field, name is the field
// that contains it.
func within(name string, err error) error {
	if err == nil {
		return nil
	}
	e := *promise.AsError(err)
	if e.Field != "" {
		name += "." + e.Field
	}
	e.Field = name
	return &e
}
