// Package openapitest compares exchanges of HTTP tests with the description of the API.
// Only tests import it.
package openapitest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/flovyn/promises/shared/openapi"
)

// A Description checks exchanges. It is safe for concurrent use.
type Description struct {
	*openapi3.T
	operations map[string]Operation // by the id
}

// An Operation is a route of the description.
type Operation struct {
	Method, Path string
	*openapi3.Operation
	parameters openapi3.Parameters // of the path, too
}

// An Exchange is a request and its answer.
type Exchange struct {
	Method      string
	Path        string // as sent, in percent-encoding
	Query       string
	Request     []byte // the body
	Status      int
	ContentType string
	Answer      []byte // the body
}

// formats guards the formats of kin-openapi, which are global.
var formats sync.Once

// Load reads and validates the description, with its examples.
func Load() (*Description, error) {
	loader := openapi3.NewLoader()
	// kin-openapi checks no UUID by itself, and its own expressions refuse versions that callers may make up.
	formats.Do(func() {
		openapi3.DefineStringFormatValidator("uuid", openapi3.NewRegexpFormatValidator(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`))
	})
	doc, err := loader.LoadFromData(openapi.YAML)
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(loader.Context, openapi3.EnableExamplesValidation()); err != nil {
		return nil, err
	}
	d := &Description{T: doc, operations: map[string]Operation{}}
	for path, item := range doc.Paths.Map() {
		for method, o := range item.Operations() {
			d.operations[o.OperationID] = Operation{method, path, o, slices.Concat(item.Parameters, o.Parameters)}
		}
	}
	return d, nil
}

// Operations returns the operations by their ids.
func (d *Description) Operations() map[string]Operation { return d.operations }

// Check returns an error unless the answer is one that the description has for the route,
// and the request one that it allows. A request that the service refuses may be invalid. A
// path that is no route has no description: there the answer is API Gateway's.
func (d *Description) Check(e Exchange) error {
	o, ok := d.find(e.Method, e.Path)
	if !ok {
		return nil
	}
	err := o.checkAnswer(e.Status, e.ContentType, e.Answer)
	if e.Status < 400 && !bytes.Contains(e.Answer, []byte(`"status":400`)) { // an item of a batch may be refused by itself
		err = errors.Join(err, o.checkQuery(e.Query), o.checkBody(e.Request))
	}
	if err != nil {
		err = fmt.Errorf("%s %s?%s %s: %d %s: %w", e.Method, e.Path, e.Query, shorten(e.Request), e.Status, shorten(e.Answer), err)
	}
	return err
}

// CheckAnswer returns an error unless one of the operations has such an answer.
func (d *Description) CheckAnswer(operations []Operation, status int, contentType string, answer []byte) error {
	var errs []error
	for _, o := range operations {
		err := o.checkAnswer(status, contentType, answer)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %d %s: %w", o.OperationID, status, shorten(answer), err))
	}
	return errors.Join(errs...)
}

func shorten(text []byte) string { return string(text[:min(len(text), 500)]) }

// find returns the operation of a request.
func (d *Description) find(method, path string) (Operation, bool) {
	for _, o := range d.operations {
		if o.Method == method && matches(o.Path, path) {
			return o, true
		}
	}
	return Operation{}, false
}

// matches reports whether a path has the form of a template.
func matches(template, path string) bool {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return false
	}
	for i, segment := range want {
		if !strings.HasPrefix(segment, "{") && segment != got[i] || got[i] == "" && i > 0 {
			return false
		}
	}
	return true
}

func (o Operation) checkAnswer(status int, contentType string, answer []byte) error {
	response := o.Responses.Value(strconv.Itoa(status))
	if response == nil {
		return errors.New("the status is not described")
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return fmt.Errorf("content type %q: %w", contentType, err)
	}
	media := response.Value.Content[mediaType]
	if media == nil {
		return fmt.Errorf("the content type %s is not described", mediaType)
	}
	if mediaType == "text/plain" {
		return nil
	}
	value, err := decode(answer)
	if err != nil {
		return err
	}
	if err := media.Schema.Value.VisitJSON(value, openapi3.VisitAsResponse()); err != nil || mediaType != "application/problem+json" {
		return err
	}
	return checkProblem(status, response.Value, value)
}

// checkProblem returns an error unless the problem has the answer's status, and a code that
// the description has for this operation and status.
func checkProblem(status int, described *openapi3.Response, problem any) error {
	p, _ := problem.(map[string]any)
	if p["status"] != json.Number(strconv.Itoa(status)) {
		return fmt.Errorf("the problem has the status %v", p["status"])
	}
	if codes, _ := described.Extensions["x-codes"].([]any); !slices.Contains(codes, p["code"]) {
		return fmt.Errorf("the code %v is not described for this status", p["code"])
	}
	return nil
}

// checkBody checks a body that is JSON. The service takes other forms of some bodies, which
// no schema describes.
func (o Operation) checkBody(body []byte) error {
	if o.RequestBody == nil {
		return nil
	}
	media := o.RequestBody.Value.Content["application/json"]
	value, err := decode(bytes.TrimPrefix(body, []byte("\ufeff")))
	if media == nil || err != nil {
		return nil
	}
	return media.Schema.Value.VisitJSON(value, openapi3.VisitAsRequest())
}

// checkQuery checks the parameters, which have one value each.
func (o Operation) checkQuery(query string) error {
	if o.Security != nil { // callback URLs and webhooks take any query
		return nil
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return err
	}
	for name, texts := range values {
		p := o.parameters.GetByInAndName(openapi3.ParameterInQuery, name)
		if p == nil {
			return fmt.Errorf("the parameter %s is not described", name)
		}
		if err := checkParameter(p.Schema.Value, texts[0]); err != nil {
			return fmt.Errorf("the parameter %s: %w", name, err)
		}
	}
	return nil
}

func checkParameter(s *openapi3.Schema, text string) error {
	if s.Type.Is(openapi3.TypeString) {
		return s.VisitJSON(text)
	}
	value, err := decode([]byte(text))
	if err != nil {
		return err
	}
	return s.VisitJSON(value)
}

func decode(text []byte) (value any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // a value may have numbers that no float64 holds
	if err := d.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the text goes on after the JSON")
	}
	return value, nil
}

// A Transport checks the exchanges of a client, if the service answered or API Gateway
// refused the request. Fault gets those that differ from the description.
type Transport struct {
	Base http.RoundTripper
	*Description
	Fault func(error)
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent bytes.Buffer
	if r.Body != nil && r.Body != http.NoBody {
		r = r.Clone(r.Context())
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r.Body, &sent), r.Body}
	}
	response, err := t.Base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	served := response.Header.Get("Promises-Version") != ""
	refused := response.StatusCode >= 400 && strings.HasPrefix(response.Header.Get("Content-Type"), "application/json")
	if _, described := t.find(r.Method, r.URL.EscapedPath()); !described || !served && !refused {
		return response, nil
	}
	answer, err := io.ReadAll(response.Body)
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(answer), &failed{err}), response.Body}
	if err == nil {
		err = t.Check(Exchange{
			r.Method, r.URL.EscapedPath(), r.URL.RawQuery, sent.Bytes(), response.StatusCode, response.Header.Get("Content-Type"), answer,
		})
		if err != nil {
			t.Fault(err)
		}
	}
	return response, nil
}

// A failed returns the error with which a body ended.
type failed struct{ err error }

func (f *failed) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}
