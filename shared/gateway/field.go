package gateway

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

func readValue(o object, limit int) ([]byte, error) {
	value, err := o.required("value")
	if err != nil {
		return nil, err
	}
	return value, checkValue("value", value, limit)
}

func readError(o object, name string, limit int) (string, error) {
	raw, err := o.required(name)
	if err != nil {
		return "", err
	}
	if err := checkSize(name, len(raw), limit); err != nil {
		return "", err
	}
	return text(name, raw)
}

func readComment(o object, name string) (*string, error) {
	comment, err := o.optionalText(name)
	if comment == nil || err != nil {
		return nil, err
	}
	return comment, within(name, promise.CheckComment(*comment))
}

// readDeadline reads timeoutMs or timeoutAt. It returns the zero Deadline if both are
// absent.
func readDeadline(o object) (promise.Deadline, error) {
	var d promise.Deadline
	ms, err := o.optionalInteger("timeoutMs", 0, promise.MaxTimeout.Milliseconds())
	if err != nil {
		return d, err
	}
	at, err := o.optionalText("timeoutAt")
	switch {
	case err != nil:
		return d, err
	case ms != nil && at != nil:
		return d, fieldError("timeoutAt", promise.CodeDuplicateField, "Send timeoutMs or timeoutAt, not both.")
	case ms != nil:
		timeout := time.Duration(*ms) * time.Millisecond
		d.Timeout = &timeout
	case at != nil:
		t, ok := parseTime(*at)
		if !ok {
			return d, fieldError("timeoutAt", promise.CodeWrongType, "timeoutAt must be an RFC 3339 time, such as 2030-01-31T12:00:00Z.")
		}
		d.At = &t
		return d, within("timeoutAt", promise.CheckTimeoutAt(t, time.Now()))
	}
	return d, nil
}

func checkValue(name string, value json.RawMessage, limit int) error {
	if err := checkSize(name, len(value), limit); err != nil {
		return err
	}
	if len(value) > 2*maxValueDepth && rawjson.Depth(value) > maxValueDepth {
		return tooDeep(name)
	}
	return nil
}

func checkSize(name string, size, limit int) error {
	if size > limit {
		return fieldError(name, promise.CodeValueTooLarge, name+" may have at most "+strconv.Itoa(limit)+" bytes of JSON.")
	}
	return nil
}
