package awssender_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/delivery/awssender"
)

const region, account = "eu-central-1", "123456789012"

// A request is one request that an awsServer received.
type request struct {
	Method, Path, Body string
	Header             http.Header
}

// operation returns the operation that a request calls.
func (r request) operation() string {
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		return target
	}
	if strings.HasPrefix(r.Body, "Action=") {
		name, _, _ := strings.Cut(strings.TrimPrefix(r.Body, "Action="), "&")
		return name
	}
	return r.Method + " " + r.Path
}

// A reply is the answer to one request.
type reply struct {
	status  int
	headers map[string]string
	body    string
}

// An awsServer records requests, and answers as an AWS service does.
type awsServer struct {
	URL string

	mu       sync.Mutex
	requests []request
}

// startAWS starts an awsServer, and sets the environment so that all services are called there.
func startAWS(t *testing.T, answer func(request) reply) *awsServer {
	t.Helper()
	s := &awsServer{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		got := request{r.Method, r.URL.EscapedPath(), string(body), r.Header}
		s.mu.Lock()
		s.requests = append(s.requests, got)
		s.mu.Unlock()
		a := answer(got)
		w.Header().Set("X-Amzn-Requestid", "7a62c49f-347e-4fc4-9331-6e8e7a96aa73")
		for name, value := range a.headers {
			w.Header().Set(name, value)
		}
		if a.status != 0 {
			w.WriteHeader(a.status)
		}
		io.WriteString(w, a.body) //nolint:errcheck // the client may have left
	}))
	t.Cleanup(server.Close)
	s.URL = server.URL
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": server.URL, "AWS_REGION": region, "AWS_ACCESS_KEY_ID": "AKIDOWN", "AWS_SECRET_ACCESS_KEY": "own", "AWS_SESSION_TOKEN": "owntoken",
		"AWS_ENDPOINT_URL_SQS": "", "AWS_ENDPOINT_URL_SNS": "", "AWS_ENDPOINT_URL_EVENTBRIDGE": "", "AWS_ENDPOINT_URL_LAMBDA": "",
		"AWS_ENDPOINT_URL_SESV2": "", "AWS_ENDPOINT_URL_SFN": "", "AWS_ENDPOINT_URL_STS": "",
	} {
		t.Setenv(name, value)
	}
	return s
}

// received returns the requests so far.
func (s *awsServer) received() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request(nil), s.requests...)
}

// only returns the single request.
func (s *awsServer) only(t *testing.T) request {
	t.Helper()
	all := s.received()
	require.Len(t, all, 1)
	return all[0]
}

// jsonError is the answer of a JSON protocol that fails.
func jsonError(status int, code, text string) reply {
	return reply{status, map[string]string{"Content-Type": "application/x-amz-json-1.0"}, `{"__type":"com.amazonaws.x#` + code + `","message":"` + text + `"}`}
}

// restError is the answer of a REST protocol that fails.
func restError(status int, code, text string) reply {
	return reply{status, map[string]string{"Content-Type": "application/json", "X-Amzn-Errortype": code}, `{"Type":"User","message":"` + text + `"}`}
}

// queryError is the answer of the query protocol that fails.
func queryError(status int, code, text string) reply {
	return reply{status, map[string]string{"Content-Type": "text/xml"}, `<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type><Code>` + code +
		`</Code><Message>` + text + `</Message></Error><RequestId>7a62c49f</RequestId></ErrorResponse>`}
}

// message returns a delivery of a message.
func message(id, body string) delivery.Delivery {
	return delivery.Delivery{ID: "d-" + id, Message: &delivery.Message{ID: id, Type: "promise.resolved", Tenant: "acme", Group: "wf", Body: []byte(body)}}
}

// completion returns a delivery of a completion.
func completion(id string, c delivery.Completion) delivery.Delivery {
	return delivery.Delivery{ID: id, Completion: &c}
}

// destinations has a destination of each kind.
var destinations = map[delivery.Kind]delivery.Destination{
	delivery.SQS:              {Kind: delivery.SQS, Address: "https://sqs.eu-west-1.amazonaws.com/" + account + "/orders"},
	delivery.SNS:              {Kind: delivery.SNS, Address: "arn:aws:sns:eu-west-1:" + account + ":orders"},
	delivery.EventBridge:      {Kind: delivery.EventBridge, Address: "arn:aws:events:eu-west-1:" + account + ":event-bus/orders"},
	delivery.Lambda:           {Kind: delivery.Lambda, Address: "arn:aws:lambda:eu-west-1:" + account + ":function:orders:live"},
	delivery.Email:            {Kind: delivery.Email, Address: "ops@example.com", From: "promises@example.com"},
	delivery.StepFunctions:    {Kind: delivery.StepFunctions},
	delivery.DurableExecution: {Kind: delivery.DurableExecution},
}

// sample returns a delivery that suits a kind.
func sample(kind delivery.Kind) delivery.Delivery {
	if kind == delivery.StepFunctions || kind == delivery.DurableExecution {
		return completion("d-1", delivery.Completion{Token: secretToken, Output: []byte(`{"secret":"body"}`)})
	}
	return message("1", `{"secret":"body"}`)
}

const secretToken = "QUtJRFRPS0VO"

// send sends deliveries to a destination.
func send(t *testing.T, to delivery.Destination, deliveries ...delivery.Delivery) []delivery.Result {
	t.Helper()
	results := awssender.New().Send(t.Context(), delivery.Batch{Destination: to, Deliveries: deliveries})
	require.Len(t, results, len(deliveries))
	for i, r := range results {
		require.Equal(t, deliveries[i].ID, r.ID)
		require.LessOrEqual(t, len(r.Error), delivery.MaxError)
		require.NotContains(t, r.Error, secretToken)
		require.NotContains(t, r.Error, "secret")
	}
	return results
}
