package lambda

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

// runtimeAPI returns the handler of the Lambda Runtime API, version 2018-06-01,
// for this environment's process.
func (e *environment) runtimeAPI() http.Handler {
	const base = "/2018-06-01/runtime"
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+base+"/invocation/next", e.serveNext)
	mux.HandleFunc("POST "+base+"/invocation/{id}/response", e.serveResponse)
	mux.HandleFunc("POST "+base+"/invocation/{id}/error", e.serveError)
	mux.HandleFunc("POST "+base+"/init/error", e.serveInitError)
	return mux
}

// serveNext blocks until it can deliver an invocation to the process.
func (e *environment) serveNext(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	unanswered := e.current != nil && e.current.ended.IsZero()
	if !unanswered {
		e.current, e.asked = nil, true
	}
	e.mu.Unlock()
	if unanswered {
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "The previous invocation has no response yet: send one before asking for the next invocation")
		return
	}
	select {
	case e.ready <- struct{}{}:
	default:
	}
	select {
	case inv := <-e.next:
		e.deliver(w, inv)
	case <-r.Context().Done():
	case <-e.exited:
	}
}

func (e *environment) deliver(w http.ResponseWriter, inv *invocation) {
	arn := ARN(cmp.Or(inv.CalledBy, e.pool.Name))
	if inv.Qualifier != "" {
		arn += ":" + inv.Qualifier
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(inv.Payload)))
	h.Set("Lambda-Runtime-Aws-Request-Id", inv.RequestID)
	h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(inv.deadline.UnixMilli(), 10))
	h.Set("Lambda-Runtime-Invoked-Function-Arn", arn)
	h.Set("Lambda-Runtime-Trace-Id", inv.TraceID)
	if inv.ClientContext != "" {
		h.Set("Lambda-Runtime-Client-Context", inv.ClientContext)
	}
	w.Write(inv.Payload) //nolint:errcheck // watch notices that the process has exited
}

// serveResponse accepts the function's response. If a streamed response failed
// midway, the trailers after the body contain the error.
func (e *environment) serveResponse(w http.ResponseWriter, r *http.Request) {
	if !e.requireCurrent(w, r) {
		return
	}
	body, fits, err := readAtMost(r.Body, MaxResponse)
	switch {
	case err != nil:
		refuse(w, http.StatusBadRequest, "BadRequest", err.Error())
	case !fits:
		const reason = "xceeded maximum allowed payload size (" + maxResponseText + " bytes)."
		f := newFault(errorTooLarge, "Response payload size e"+reason)
		e.answer(r.PathValue("id"), f.payload, f.errorType)
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "E"+reason)
	default:
		errorType := r.Trailer.Get("Lambda-Runtime-Function-Error-Type")
		if errorType != "" {
			if detail, err := base64.StdEncoding.DecodeString(r.Trailer.Get("Lambda-Runtime-Function-Error-Body")); err == nil {
				body = detail
			}
		}
		e.answer(r.PathValue("id"), body, errorType)
		accept(w)
	}
}

const maxResponseText = "6291556"

func (e *environment) serveError(w http.ResponseWriter, r *http.Request) {
	if !e.requireCurrent(w, r) {
		return
	}
	f, ok := readFault(w, r)
	if ok {
		e.answer(r.PathValue("id"), f.payload, f.errorType)
		accept(w)
	}
}

func (e *environment) serveInitError(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	asked := e.asked
	e.mu.Unlock()
	if asked {
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "The init phase has ended: report errors for the invocation")
		return
	}
	f, ok := readFault(w, r)
	if !ok {
		return
	}
	accept(w)
	select {
	case e.initErr <- f:
	default:
	}
}

// requireCurrent reports whether the request names the running invocation and that
// has no response yet. Otherwise it refuses the request.
func (e *environment) requireCurrent(w http.ResponseWriter, r *http.Request) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.current == nil || e.current.RequestID != r.PathValue("id"):
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
	case !e.current.ended.IsZero():
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "The invocation already has a response")
	default:
		return true
	}
	return false
}

func (e *environment) answer(id string, payload []byte, errorType string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	inv := e.current
	if inv == nil || inv.RequestID != id || !inv.ended.IsZero() {
		return
	}
	inv.payload, inv.errorType, inv.ended = payload, errorType, time.Now()
	close(inv.answered)
}

// readFault reads an error that a runtime reports. It returns false if it refused
// the request.
func readFault(w http.ResponseWriter, r *http.Request) (fault, bool) {
	body, fits, err := readAtMost(r.Body, MaxResponse)
	if err != nil || !fits {
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "The error exceeds "+maxResponseText+" bytes or its body is incomplete")
		return fault{}, false
	}
	var reported struct {
		Type string `json:"errorType"`
	}
	if err := json.Unmarshal(body, &reported); err != nil || reported.Type == "" {
		reported.Type = r.Header.Get("Lambda-Runtime-Function-Error-Type")
	}
	if reported.Type == "" {
		reported.Type = errorUnknown
	}
	return fault{reported.Type, body}, true
}

// readAtMost reads r and returns at most limit bytes. If r has more, fits is false,
// and readAtMost discards up to ten times the limit before it stops reading.
func readAtMost(r io.Reader, limit int64) (body []byte, fits bool, err error) {
	body, err = io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, false, err
	}
	if int64(len(body)) <= limit {
		return body, true, nil
	}
	_, err = io.CopyN(io.Discard, r, 10*limit)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return nil, false, err
}

func accept(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, `{"status":"OK"}`+"\n") //nolint:errcheck // watch notices that the process has exited
}

func refuse(w http.ResponseWriter, status int, errorType, message string) {
	f := newFault(errorType, message)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(f.payload) //nolint:errcheck // watch notices that the process has exited
}
