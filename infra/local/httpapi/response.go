package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// A response is an HTTP response to the client.
type response struct {
	status  int
	headers map[string]string
	cookies []string
	body    []byte
}

// gatewayResponse returns a response of the gateway itself, with a message as body.
func gatewayResponse(status int) response {
	text := http.StatusText(status)
	return response{
		status:  status,
		headers: map[string]string{"Content-Type": "application/json"},
		body:    fmt.Appendf(nil, `{"message":%q}`, text),
	}
}

// parseResponse parses a function's response, payload format 2.0. A payload without
// a statusCode becomes the body of a 200 response. If there is a statusCode,
// parseResponse returns an error for a malformed response.
func parseResponse(payload []byte) (response, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil || fields["statusCode"] == nil {
		return inferResponse(payload), nil
	}
	var out struct {
		StatusCode json.RawMessage            `json:"statusCode"`
		Headers    map[string]json.RawMessage `json:"headers"`
		Cookies    []string                   `json:"cookies"`
		Body       string                     `json:"body"`
		Base64     bool                       `json:"isBase64Encoded"`
	}
	if err := json.Unmarshal(payload, &out); err != nil {
		return response{}, err
	}
	status, err := strconv.Atoi(strings.Trim(string(out.StatusCode), `"`))
	if err != nil || status < 200 || status > 599 {
		return response{}, fmt.Errorf("statusCode is %s instead of a number from 200 to 599", out.StatusCode)
	}
	r := response{
		status:  status,
		headers: map[string]string{"Content-Type": "text/plain;charset=UTF-8"},
		cookies: out.Cookies,
		body:    []byte(out.Body),
	}
	for name, raw := range out.Headers {
		value, err := scalar(raw)
		if err != nil {
			return response{}, fmt.Errorf("header %s: %w", name, err)
		}
		r.headers[http.CanonicalHeaderKey(name)] = value
	}
	if out.Base64 {
		r.body, err = base64.StdEncoding.DecodeString(out.Body)
		if err != nil {
			return response{}, fmt.Errorf("body: %w", err)
		}
	}
	return r, nil
}

func inferResponse(payload []byte) response {
	r := response{status: http.StatusOK, headers: map[string]string{"Content-Type": "application/json"}, body: payload}
	var text string
	if json.Unmarshal(payload, &text) == nil && bytes.HasPrefix(bytes.TrimSpace(payload), []byte{'"'}) {
		r.body = []byte(text)
	}
	return r
}

// scalar returns the text of a JSON string, number or boolean, and empty for null.
func scalar(raw json.RawMessage) (string, error) {
	switch raw[0] {
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	case '{', '[':
		return "", fmt.Errorf("not a string, number or boolean")
	case 'n':
		return "", nil
	default:
		return string(raw), nil
	}
}

// reservedHeaders lists the headers that a function cannot set.
var reservedHeaders = map[string]bool{
	"Connection": true, "Content-Length": true, "Keep-Alive": true, "Proxy-Connection": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Apigw-Requestid": true,
}

func (r response) write(w http.ResponseWriter, requestID string) {
	h := w.Header()
	for name, value := range r.headers {
		if !reservedHeaders[name] {
			h.Set(name, value)
		}
	}
	for _, c := range r.cookies {
		h.Add("Set-Cookie", c)
	}
	h.Set("Apigw-Requestid", requestID)
	if r.status == http.StatusNoContent || r.status == http.StatusNotModified {
		w.WriteHeader(r.status)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(r.body)))
	w.WriteHeader(r.status)
	w.Write(r.body) //nolint:errcheck // the client has left
}
