package awssender

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sesv2"
	"github.com/aws/aws-sdk-go-v2/service/sesv2/types"

	"github.com/flovyn/promises/shared/delivery"
)

// mail sends a mail with a plain text.
func mail(ctx context.Context, config aws.Config, to delivery.Destination, deliveries []delivery.Delivery) ([]delivery.Result, error) {
	subject, text, err := mailOf(*deliveries[0].Message)
	if err != nil {
		return []delivery.Result{{Outcome: delivery.Refused, Error: "The body is not a JSON object: this is a fault of promises."}}, nil
	}
	content := func(s string) *types.Content { return &types.Content{Data: &s, Charset: aws.String("UTF-8")} }
	_, err = sesv2.NewFromConfig(config).SendEmail(ctx, &sesv2.SendEmailInput{
		FromEmailAddress: &to.From, Destination: &types.Destination{ToAddresses: []string{to.Address}},
		Content: &types.EmailContent{Simple: &types.Message{Subject: content(subject), Body: &types.Body{Text: content(text)}}},
	})
	return []delivery.Result{delivered}, err
}

// maxQuoted bounds a name, a value or an error in a mail, in characters.
const maxQuoted = 1000

// mailOf returns the subject and the text of the mail for a message. The text names the
// event and the promise, and quotes the value or the error if it is short.
func mailOf(m delivery.Message) (subject, text string, err error) {
	var body struct {
		Timestamp string `json:"timestamp"`
		Data      struct {
			PromiseID    string          `json:"promiseId"`
			Name         string          `json:"name"`
			WorkflowID   string          `json:"workflowId"`
			Value        json.RawMessage `json:"value"`
			ValueOmitted bool            `json:"valueOmitted"`
			Error        string          `json:"error"`
			Reason       string          `json:"reason"`
		} `json:"data"`
	}
	if err := json.Unmarshal(m.Body, &body); err != nil {
		return "", "", err
	}
	data := body.Data
	subject = m.Type
	if data.Name != "" {
		subject += ": " + shorten(oneLine(data.Name), 100)
	}
	var b strings.Builder
	for _, line := range []struct{ name, value string }{
		{"Event", m.Type}, {"Promise", data.PromiseID}, {"Name", data.Name}, {"Workflow", data.WorkflowID}, {"Tenant", m.Tenant},
		{"Time", body.Timestamp}, {"Value", string(data.Value)}, {"Error", data.Error}, {"Reason", data.Reason}, {"Message", m.ID},
	} {
		if line.value != "" {
			fmt.Fprintf(&b, "%s: %s\n", line.name, shorten(oneLine(line.value), maxQuoted))
		}
	}
	if data.ValueOmitted {
		b.WriteString("The value is too long for this mail. Read it with get-promise.\n")
	}
	return subject, b.String(), nil
}

// shorten cuts a text to a number of characters and marks the cut.
func shorten(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most]) + "... (cut)"
}

// oneLine replaces control characters, so that a text adds no line of its own.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, text)
}
