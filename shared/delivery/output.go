package delivery

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// The services' limits, in bytes. A service that documents "1 MB" gets the smaller
// reading of it.
const (
	// "Length constraints apply to the payload size, and are expressed as bytes in UTF-8
	// encoding. [...] Maximum length of 262144."
	// https://docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskSuccess.html
	maxTaskOutput = 262_144

	// "AWS Lambda durable functions now supports payloads up to 1 MB for checkpoints,
	// callback completion, and error details."
	// https://github.com/aws/aws-sdk-go-v2/blob/main/service/lambda/CHANGELOG.md (v1.113.3)
	maxCallbackResult = 1_000_000

	// "For asynchronous invocations, the maximum payload size is 1 MB."
	// https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
	maxInvokePayload = 1_000_000

	// A queue accepts 262,144 bytes by default, and up to 1 MiB if its owner has set
	// MaximumMessageSize. A topic does the same. An EventBridge entry must be smaller than
	// 256 KB. Attributes and names count.
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
	// https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html
	// https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevent-size.html
	maxQueued = 262_144 - reserve

	reserve = 1 << 10 // for the attributes, or the names and the type, beside a body

	maxPosted = 1 << 20  // HTTPS: this project's own limit
	maxMailed = 64 << 10 // Email: the mail's text quotes a small part of the body
)

// Limit returns the largest size of a message's body, or of a completion's output, for a
// kind of destination.
func Limit(kind Kind) int {
	switch kind {
	case StepFunctions:
		return maxTaskOutput
	case DurableExecution:
		return maxCallbackResult
	case SQS, SNS, EventBridge:
		return maxQueued
	case Lambda:
		return maxInvokePayload
	case Email:
		return maxMailed
	default:
		return maxPosted
	}
}

// MaxCause is the largest length of a completion's cause, in characters as Java counts
// them: one outside the Basic Multilingual Plane counts twice.
// https://docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskFailure.html
const MaxCause = 32_768

// NewCompletion returns the completion of a task or a callback with the result of a
// settled promise. A resolved promise gives an output; the output omits a value that
// was erased, or with which it would exceed the kind's limit. Every other state gives an error, such as
// promise_timed_out, and the message as its cause.
func NewCompletion(kind Kind, token string, id uuid.UUID, result promise.Result) Completion {
	c := Completion{Token: token}
	if result.State != promise.Resolved {
		c.Error = "promise_" + string(result.State)
		if result.Message != nil {
			c.Cause = cutCause(*result.Message)
		}
		return c
	}
	head := appendField([]byte(`{`), "promiseId", encodeString(id.String()))
	head = appendField(head, "state", encodeString(string(result.State)))
	if result.Value == nil || len(head)+len(`,"value":}`)+len(result.Value) > Limit(kind) || !json.Valid(result.Value) {
		c.Output = appendField(head, "valueOmitted", []byte("true"))
	} else {
		c.Output = appendField(head, "value", result.Value)
	}
	c.Output = append(c.Output, '}')
	return c
}

// WithBody returns the message with its body for a kind of destination. data is the
// promise as a JSON object. If the body with it would exceed the kind's limit, the body
// has reduced instead, with "valueOmitted": true. The caller keeps reduced small: it has
// no value, and no error longer than MaxCause.
func (m Message) WithBody(kind Kind, at time.Time, data, reduced []byte) Message {
	head := appendField([]byte(`{`), "id", encodeString(m.ID))
	head = appendField(head, "type", encodeString(m.Type))
	head = appendField(head, "timestamp", encodeString(at.UTC().Format(time.RFC3339Nano)))
	head = appendField(head, "tenant", encodeString(m.Tenant))
	if kind == SQS || kind == SNS {
		data, reduced = escapeNoncharacters(data), escapeNoncharacters(reduced)
	}
	if len(head)+len(`,"data":}`)+len(data) > Limit(kind) {
		open := bytes.TrimSuffix(bytes.TrimSpace(reduced), []byte(`}`))
		data = append(appendField(bytes.Clone(open), "valueOmitted", []byte("true")), '}')
	}
	m.Body = append(appendField(head, "data", data), '}')
	return m
}

// escapeNoncharacters escapes the two characters of a JSON text that SQS and SNS reject.
// Such a character stands inside a string, so the text keeps its meaning.
func escapeNoncharacters(text []byte) []byte {
	text = bytes.ReplaceAll(text, []byte("\uFFFE"), []byte(`\ufffe`))
	return bytes.ReplaceAll(text, []byte("\uFFFF"), []byte(`\uffff`))
}

// appendField appends a field to the text of a JSON object that has no closing brace.
func appendField(object []byte, name string, value []byte) []byte {
	if object[len(object)-1] != '{' {
		object = append(object, ',')
	}
	object = append(append(append(object, '"'), name...), '"', ':')
	return append(object, value...)
}

func encodeString(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic(err) // a string always encodes
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// cutCause cuts a text to MaxCause, between two characters.
func cutCause(text string) string {
	n := 0
	for at, r := range text {
		n++
		if r > 0xFFFF {
			n++
		}
		if n > MaxCause {
			return text[:at]
		}
	}
	return text
}
