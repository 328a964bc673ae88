package invokeapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/flovyn/promises/infra/local/lambda"
)

// An apiError is an error of the Lambda API, in the form of the REST-JSON protocol.
type apiError struct {
	status  int
	code    string
	message string
	reason  string
	service bool // the service caused it, and not the caller
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func errInvalidContent(message string) error {
	return &apiError{status: http.StatusBadRequest, code: "InvalidRequestContentException", message: message}
}

func errNotFound(name, qualifier string) error {
	arn := lambda.ARN(name)
	if qualifier != "" {
		arn += ":" + qualifier
	}
	return &apiError{status: http.StatusNotFound, code: "ResourceNotFoundException", message: "Function not found: " + arn}
}

func errDenied(name, qualifier string) error {
	return &apiError{status: http.StatusForbidden, code: "AccessDeniedException", message: "User: arn:aws:iam::" + lambda.AccountID +
		":user/local is not authorized to perform: lambda:InvokeFunction on resource: " + lambda.ARN(name) + ":" + qualifier +
		" because no identity-based policy allows the lambda:InvokeFunction action"}
}

func errInvalidName(name string) error {
	return &apiError{status: http.StatusBadRequest, code: "ValidationException", message: fmt.Sprintf(
		"1 validation error detected: Value '%s' at 'functionName' failed to satisfy constraint: Member must be the name or ARN of a function", name)}
}

func writeError(w http.ResponseWriter, err error) {
	var e *apiError
	if !errors.As(err, &e) {
		e = &apiError{status: http.StatusInternalServerError, code: "ServiceException", message: "Internal error", service: true}
	}
	// Lambda writes most errors with Message, and throttling and newer errors with
	// message. SDKs read both.
	body := struct {
		Reason  string `json:"Reason,omitempty"`
		Type    string `json:"Type"`
		Message string `json:"Message,omitempty"`
		Lower   string `json:"message,omitempty"`
	}{Reason: e.reason, Type: "User", Message: e.message}
	if e.service {
		body.Type = "Service"
	}
	if e.status == http.StatusTooManyRequests {
		body.Message, body.Lower = "", e.message
		w.Header().Set("Retry-After", "1")
	}
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // four strings can always be marshalled
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.Header().Set("X-Amzn-Errortype", e.code)
	w.WriteHeader(e.status)
	w.Write(b) //nolint:errcheck // the caller has left
}
