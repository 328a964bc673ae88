// Package invokeapi serves the Invoke operation of the AWS Lambda API. The AWS CLI and
// every AWS SDK can call local functions if their endpoint is set to it. It ignores
// credentials and signatures.
package invokeapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/flovyn/promises/infra/local/lambda"
)

// A Handler serves the Lambda API of one service:
//
//	POST /2015-03-31/functions/{name or ARN}/invocations?Qualifier=
//
// It supports the invocation types RequestResponse, Event and DryRun, LogType=Tail and
// the client context. It answers every other operation with 404
// UnknownOperationException.
type Handler struct {
	Service *lambda.Service
	// Function returns the service's name for a function that is called by another
	// name. The function sees the name from the call in its ARN. If Function is nil,
	// the names are equal.
	Function func(name string) string
	// Denied is a qualifier that no caller may invoke, as if no policy allowed it. Such
	// a call gets 403 AccessDeniedException. If Denied is empty, there is no such
	// qualifier.
	Denied string
}

func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	requestID := uuid.NewString()
	w.Header().Set("X-Amzn-Requestid", requestID)
	if err := h.invoke(w, r, requestID); err != nil {
		writeError(w, err)
	}
}

func (h Handler) invoke(w http.ResponseWriter, r *http.Request, requestID string) error {
	t, err := h.target(r)
	if err != nil {
		return err
	}
	req := lambda.Request{
		RequestID: requestID,
		CalledBy:  t.name,
		Qualifier: t.qualifier,
		TraceID:   r.Header.Get("X-Amzn-Trace-Id"),
		Tail:      r.Header.Get("X-Amz-Log-Type") == "Tail",
	}
	switch kind := r.Header.Get("X-Amz-Invocation-Type"); kind {
	case "DryRun":
		w.WriteHeader(http.StatusNoContent)
		return nil
	case "Event":
		return h.invokeEvent(w, r, t, req)
	case "", "RequestResponse":
		return h.invokeAndWait(w, r, t, req)
	default:
		return &apiError{status: http.StatusBadRequest, code: "InvalidParameterValueException", message: "Unknown invocation type: " + kind + "; use RequestResponse, Event or DryRun."}
	}
}

// A target is the function of a call: the service's name for it, and the name and the
// qualifier from the call.
type target struct{ function, name, qualifier string }

// target reads the path and the query. It refuses other operations, unknown functions and
// the denied qualifier.
func (h Handler) target(r *http.Request) (target, error) {
	segments := strings.Split(r.URL.EscapedPath(), "/")
	if r.Method != http.MethodPost || len(segments) != 5 || segments[1] != "2015-03-31" ||
		segments[2] != "functions" || segments[4] != "invocations" {
		return target{}, &apiError{status: http.StatusNotFound, code: "UnknownOperationException", message: "This endpoint supports only the Invoke operation."}
	}
	name, err := url.PathUnescape(segments[3])
	if err != nil {
		return target{}, errInvalidName(segments[3])
	}
	name, qualifier, err := parseName(name, r.URL.Query().Get("Qualifier"))
	if err != nil {
		return target{}, err
	}
	if h.Denied != "" && qualifier == h.Denied {
		return target{}, errDenied(name, qualifier)
	}
	function := name
	if h.Function != nil {
		function = h.Function(name)
	}
	if _, err := h.Service.Function(function); err != nil || qualifier != "" && qualifier != lambda.Version {
		return target{}, errNotFound(name, qualifier)
	}
	return target{function, name, qualifier}, nil
}

func (h Handler) invokeEvent(w http.ResponseWriter, r *http.Request, t target, req lambda.Request) (err error) {
	if req.Payload, err = payload(r.Body, lambda.MaxEventPayload, "%[1]d byte payload is too large for the Event invocation type (limit %[2]d bytes)"); err != nil {
		return err
	}
	if _, err := h.Service.InvokeEvent(t.function, req); err != nil {
		return serviceError(err, t)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (h Handler) invokeAndWait(w http.ResponseWriter, r *http.Request, t target, req lambda.Request) (err error) {
	if req.Payload, err = payload(r.Body, lambda.MaxPayload, "Request must be smaller than %[2]d bytes for the InvokeFunction operation"); err != nil {
		return err
	}
	if req.ClientContext, err = clientContext(r.Header.Get("X-Amz-Client-Context")); err != nil {
		return err
	}
	result, err := h.Service.Invoke(context.WithoutCancel(r.Context()), t.function, req)
	if err != nil {
		return serviceError(err, t)
	}
	writeResult(w, result, req.Tail)
	return nil
}

func writeResult(w http.ResponseWriter, result lambda.Result, tail bool) {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(result.Payload)))
	header.Set("X-Amz-Executed-Version", lambda.Version)
	root, _, _ := strings.Cut(result.TraceID, ";")
	header.Set("X-Amzn-Trace-Id", root+";Sampled=0")
	if e := result.FunctionError(); e != "" {
		header.Set("X-Amz-Function-Error", e)
	}
	if tail {
		header.Set("X-Amz-Log-Result", base64.StdEncoding.EncodeToString(result.Log))
	}
	w.Write(result.Payload) //nolint:errcheck // the caller has left
}

// payload reads and checks an invocation's payload, which may be empty. tooLarge is the
// format of an error message, with the size and the limit as arguments.
func payload(r io.Reader, limit int, tooLarge string) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, errInvalidContent("The request body is incomplete: " + err.Error())
	}
	if len(body) > limit {
		rest, _ := io.Copy(io.Discard, io.LimitReader(r, 10*lambda.MaxPayload))
		message := fmt.Sprintf(tooLarge, int64(len(body))+rest, limit)
		return nil, &apiError{status: http.StatusRequestEntityTooLarge, code: "RequestEntityTooLargeException", message: message}
	}
	if len(body) == 0 {
		return nil, nil
	}
	const prefix = "Could not parse request body into json: Could not parse payload into json: "
	var value json.RawMessage
	if err := json.Unmarshal(body, &value); err != nil {
		return nil, errInvalidContent(prefix + err.Error())
	}
	if !utf8.Valid(body) {
		return nil, errInvalidContent(prefix + "invalid UTF-8")
	}
	return body, nil
}

func clientContext(encoded string) (string, error) {
	if encoded == "" {
		return "", nil
	}
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	var compact bytes.Buffer
	if err == nil {
		err = json.Compact(&compact, decoded)
	}
	if err != nil {
		return "", errInvalidContent("Client context must be a valid Base64-encoded JSON object.")
	}
	return compact.String(), nil
}

// functionName matches the function names that Lambda documents for Invoke. It accepts
// any region and account, so that a caller's real ARN works.
var functionName = regexp.MustCompile(`^(?:arn:aws[a-zA-Z-]*:lambda:)?(?:[a-z]{2}(?:-[a-z]+)+-\d:)?(?:\d{12}:)?(?:function:)?([a-zA-Z0-9_.-]{1,64})(?::(\$LATEST|[a-zA-Z0-9_-]+))?$`)

// parseName splits the name or ARN in a call into the function's name and the qualifier,
// which may be empty.
func parseName(s, query string) (name, qualifier string, err error) {
	m := functionName.FindStringSubmatch(s)
	if m == nil {
		return "", "", errInvalidName(s)
	}
	name, qualifier = m[1], m[2]
	if qualifier != "" && query != "" && qualifier != query {
		return "", "", &apiError{status: http.StatusBadRequest, code: "InvalidParameterValueException",
			message: "The derived qualifier from the function name does not match the specified qualifier."}
	}
	if qualifier == "" {
		qualifier = query
	}
	return name, qualifier, nil
}

func serviceError(err error, t target) error {
	switch {
	case errors.Is(err, lambda.ErrNotFound):
		return errNotFound(t.name, t.qualifier)
	case errors.Is(err, lambda.ErrThrottled):
		return &apiError{status: http.StatusTooManyRequests, code: "TooManyRequestsException", message: "Rate Exceeded.",
			reason: "ConcurrentInvocationLimitExceeded"}
	default: // the service is closed; an SDK retries the call
		return &apiError{status: http.StatusInternalServerError, code: "ServiceException", message: err.Error(), service: true}
	}
}
