// Package awssender sends deliveries to AWS services. A function that links it starts
// several milliseconds later, so only the sender of deliveries imports it.
package awssender

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"golang.org/x/sync/errgroup"

	"github.com/flovyn/promises/shared/delivery"
)

// callTimeout limits one call of a service, and one assumption of a role.
const callTimeout = 15 * time.Second

// A service describes the calls to one AWS service.
type service struct {
	id     string // the SDKs' name, in AWS_ENDPOINT_URL_<id>
	most   int    // deliveries in one call
	bytes  int    // bytes in one call, with an overhead for each delivery
	atOnce int    // calls at one time

	// send makes one call. It returns a result for each delivery that the answer names; an
	// error means that the whole call failed.
	send func(ctx context.Context, config aws.Config, to delivery.Destination, deliveries []delivery.Delivery) ([]delivery.Result, error)
}

// services lists the AWS kinds. SendMessageBatch takes 1 MiB in all, PublishBatch and
// PutEvents take 256 KiB; see the sources beside delivery.Limit.
var services = map[delivery.Kind]service{
	delivery.SQS:              {id: "SQS", most: 10, bytes: 1 << 20, atOnce: 8, send: sendToQueue},
	delivery.SNS:              {id: "SNS", most: 10, bytes: 1 << 18, atOnce: 8, send: publish},
	delivery.EventBridge:      {id: "EVENTBRIDGE", most: 10, bytes: 1 << 18, atOnce: 8, send: putEvents},
	delivery.Lambda:           {id: "LAMBDA", most: 1, atOnce: 16, send: invoke},
	delivery.Email:            {id: "SESV2", most: 1, atOnce: 4, send: mail},
	delivery.StepFunctions:    {id: "SFN", most: 1, atOnce: 16, send: completeTask},
	delivery.DurableExecution: {id: "LAMBDA", most: 1, atOnce: 16, send: completeCallback},
}

// A Sender sends batches to the kinds that are AWS services, with the credentials in the
// environment. It makes each call once: the caller schedules the next attempt. It caches
// the credentials of assumed roles, and is safe for concurrent use.
type Sender struct {
	// EndpointsOnly makes it refuse to call AWS itself: it sends a batch only if the
	// environment names an endpoint for the service and, if the destination has a role,
	// for STS.
	EndpointsOnly bool

	region  string
	timeout time.Duration
	client  *awshttp.BuildableClient

	mu    sync.Mutex
	roles map[string]aws.CredentialsProvider // by ARN
}

// maxRoles bounds the roles whose credentials a Sender caches.
const maxRoles = 1000

// New returns a Sender whose own region is AWS_REGION.
func New() *Sender {
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = 16 })
	return &Sender{region: os.Getenv("AWS_REGION"), timeout: callTimeout, client: client, roles: map[string]aws.CredentialsProvider{}}
}

// Endpoint returns the URL that the environment sets in place of a kind's AWS service, or
// "". variable is the variable that sets it for this service alone; AWS_ENDPOINT_URL sets
// it for all services. Both are empty for a kind that is no AWS service.
func Endpoint(kind delivery.Kind) (url, variable string) {
	svc, ok := services[kind]
	if !ok {
		return "", ""
	}
	return endpoint(svc.id)
}

func endpoint(service string) (url, variable string) {
	variable = "AWS_ENDPOINT_URL_" + service
	if url = os.Getenv(variable); url == "" {
		url = os.Getenv("AWS_ENDPOINT_URL")
	}
	return url, variable
}

// Send makes one attempt for each delivery of the batch, with several calls at once. Each
// call ends within 15 s, and so does the assumption of a role. It returns one result for
// each delivery, in their order. It returns soon after ctx ends.
//
// The outcome of a delivery is one of these:
//
//   - Delivered: the service has accepted it.
//   - Gone: Step Functions or Lambda does not know the task or the callback, or it has
//     ended.
//   - Refused: the service will never take the body, or the delivery does not fit the kind.
//   - Throttled: the service limits the sender, or ctx ended before the call.
//   - Failed: everything else, such as a missing right.
//
// An Error names the operation, the service's error code and the remedy. It quotes no text
// of the service, because that may hold a token.
func (s *Sender) Send(ctx context.Context, batch delivery.Batch) []delivery.Result {
	to := batch.Destination
	svc, ok := services[to.Kind]
	url, variable := Endpoint(to.Kind)
	if url != "" && to.RoleARN != "" {
		url, variable = endpoint("STS")
	}
	to.Region = s.regionOf(to)
	switch {
	case !ok:
		return all(batch.Deliveries, delivery.Result{Outcome: delivery.Refused, Error: "The kind of the destination is not an AWS service."})
	case s.EndpointsOnly && url == "":
		return all(batch.Deliveries, delivery.Result{Outcome: delivery.Failed, Error: "No endpoint is configured for " + string(to.Kind) + ": set " + variable + "."})
	case to.Region == "":
		return all(batch.Deliveries, delivery.Result{Outcome: delivery.Failed, Error: "No region is configured: set the destination's region."})
	}

	results := make([]delivery.Result, len(batch.Deliveries))
	var sound []int
	for i, d := range batch.Deliveries {
		if fault := faultOf(to.Kind, d); fault != "" {
			results[i] = delivery.Result{ID: d.ID, Outcome: delivery.Refused, Error: fault}
		} else {
			sound = append(sound, i)
		}
	}
	config := s.config(svc, to)
	var calls errgroup.Group
	calls.SetLimit(svc.atOnce)
	if isFIFO(to) { // a queue keeps the order in which calls arrive
		calls.SetLimit(1)
	}
	for _, part := range svc.split(batch.Deliveries, sound) {
		calls.Go(func() error {
			deliveries := make([]delivery.Delivery, len(part))
			for n, i := range part {
				deliveries[n] = batch.Deliveries[i]
			}
			for n, r := range s.call(ctx, svc, config, to, deliveries) {
				results[part[n]] = r
			}
			return nil
		})
	}
	calls.Wait() //nolint:errcheck // no call returns one
	return results
}

// all returns the same result for each delivery.
func all(deliveries []delivery.Delivery, r delivery.Result) []delivery.Result {
	results := make([]delivery.Result, len(deliveries))
	for i, d := range deliveries {
		r.ID = d.ID
		results[i] = r
	}
	return results
}

// faultOf returns the reason why a delivery can never be sent, or "".
func faultOf(kind delivery.Kind, d delivery.Delivery) string {
	completes := kind == delivery.StepFunctions || kind == delivery.DurableExecution
	var size int
	switch {
	case completes && d.Completion != nil && d.Message == nil:
		size = len(d.Completion.Output)
	case !completes && d.Message != nil && d.Completion == nil:
		size = len(d.Message.Body)
	default:
		return "The delivery does not fit the kind " + string(kind) + ": this is a fault of promises."
	}
	if size > delivery.Limit(kind) {
		return "The body is larger than " + string(kind) + " takes: this is a fault of promises."
	}
	return ""
}

// overhead bounds the bytes that a message's attributes, or its names and type, add to its body.
const overhead = 1 << 10

// split divides the deliveries with the given indexes into parts for one call each.
func (s service) split(deliveries []delivery.Delivery, indexes []int) (parts [][]int) {
	size := 0
	for _, i := range indexes {
		more := overhead
		if m := deliveries[i].Message; m != nil {
			more += len(m.Body)
		}
		last := len(parts) - 1
		if last < 0 || len(parts[last]) == s.most || size+more > s.bytes {
			parts, size = append(parts, []int{i}), more
		} else {
			parts[last], size = append(parts[last], i), size+more
		}
	}
	return parts
}

// call makes one call and returns a result for each delivery.
func (s *Sender) call(ctx context.Context, svc service, config aws.Config, to delivery.Destination, deliveries []delivery.Delivery) []delivery.Result {
	if ctx.Err() != nil {
		return all(deliveries, delivery.Result{Outcome: delivery.Throttled, Error: "The time of the batch ended before this call."})
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	results, err := svc.send(ctx, config, to, deliveries)
	if err != nil {
		return all(deliveries, resultOf(to, err))
	}
	for i, d := range deliveries {
		if results[i].ID = d.ID; results[i].Outcome == "" {
			results[i].Outcome, results[i].Error = delivery.Failed, "The answer of "+string(to.Kind)+" does not name this message."
		}
	}
	return results
}

func isFIFO(to delivery.Destination) bool {
	return (to.Kind == delivery.SQS || to.Kind == delivery.SNS) && strings.HasSuffix(to.Address, ".fifo")
}

// regionOf returns the region of a destination: its own, or the one in its ARN or in its
// queue's URL, or the sender's.
func (s *Sender) regionOf(to delivery.Destination) string {
	if to.Region != "" {
		return to.Region
	}
	if part := strings.Split(to.Address, ":"); part[0] == "arn" && len(part) > 5 && part[3] != "" {
		return part[3]
	}
	if host, ok := strings.CutPrefix(to.Address, "https://sqs."); ok && to.Kind == delivery.SQS {
		if region, _, ok := strings.Cut(host, ".amazonaws.com"); ok {
			return region
		}
	}
	return s.region
}

// config returns the configuration of a client for one destination.
func (s *Sender) config(svc service, to delivery.Destination) aws.Config {
	c := s.base(svc.id, to.Region)
	c.Credentials = aws.CredentialsProviderFunc(fromEnvironment)
	if to.RoleARN != "" {
		c.Credentials = s.role(to.RoleARN, to.Region)
	}
	return c
}

// base returns a configuration without credentials. The SDK does not retry with it.
func (s *Sender) base(service, region string) aws.Config {
	c := aws.Config{Region: region, HTTPClient: s.client, Retryer: func() aws.Retryer { return aws.NopRetryer{} }}
	if url, _ := endpoint(service); url != "" {
		c.BaseEndpoint = &url
	}
	return c
}

func fromEnvironment(context.Context) (aws.Credentials, error) {
	return aws.Credentials{
		AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
		SessionToken: os.Getenv("AWS_SESSION_TOKEN"), Source: "environment",
	}, nil
}

// role returns the credentials of an assumed role. They are cached until they expire.
func (s *Sender) role(arn, region string) aws.CredentialsProvider {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cached := s.roles[arn]; cached != nil {
		return cached
	}
	if len(s.roles) >= maxRoles {
		clear(s.roles)
	}
	if s.region != "" {
		region = s.region
	}
	config := s.base("STS", region)
	config.Credentials = aws.CredentialsProviderFunc(fromEnvironment)
	assumed := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(config), arn, func(o *stscreds.AssumeRoleOptions) { o.RoleSessionName = "promises" })
	s.roles[arn] = aws.NewCredentialsCache(aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		ctx, cancel := context.WithTimeout(ctx, s.timeout) // the cache's context has no end
		defer cancel()
		return assumed.Retrieve(ctx)
	}), func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = time.Minute })
	return s.roles[arn]
}
