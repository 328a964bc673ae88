package delivery

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
)

// callTimeout limits one call of a service, and one assumption of a role.
const callTimeout = 15 * time.Second

// A service describes the calls to one AWS service.
type service struct {
	id     string // the SDKs' name, in AWS_ENDPOINT_URL_<id>
	most   int    // deliveries in one call
	bytes  int    // bytes in one call, with a reserve for each delivery
	atOnce int    // calls at one time

	// send makes one call. It returns a result for each delivery that the answer names; an
	// error means that the whole call failed.
	send func(ctx context.Context, config aws.Config, to Destination, deliveries []Delivery) ([]Result, error)
}

// services lists the AWS kinds. SendMessageBatch takes 1 MiB in all, PublishBatch and
// PutEvents take 256 KiB; see maxQueued for the sources.
var services = map[Kind]service{
	SQS:              {id: "SQS", most: 10, bytes: 1 << 20, atOnce: 8, send: sendToQueue},
	SNS:              {id: "SNS", most: 10, bytes: 1 << 18, atOnce: 8, send: publish},
	EventBridge:      {id: "EVENTBRIDGE", most: 10, bytes: 1 << 18, atOnce: 8, send: putEvents},
	Lambda:           {id: "LAMBDA", most: 1, atOnce: 16, send: invoke},
	Email:            {id: "SESV2", most: 1, atOnce: 4, send: mail},
	StepFunctions:    {id: "SFN", most: 1, atOnce: 16, send: completeTask},
	DurableExecution: {id: "LAMBDA", most: 1, atOnce: 16, send: completeCallback},
}

// An AWS sends batches to the kinds that are AWS services, with the credentials in the
// environment. It makes each call once: the caller schedules the next attempt.
type AWS struct {
	// EndpointsOnly makes it refuse to call AWS itself: it sends a batch only if the
	// environment names an endpoint for the service.
	EndpointsOnly bool

	region  string
	timeout time.Duration
	client  *awshttp.BuildableClient

	mu    sync.Mutex
	roles map[string]aws.CredentialsProvider // by ARN
}

// maxRoles bounds the roles whose credentials an AWS caches.
const maxRoles = 1000

// NewAWS returns an AWS whose own region is AWS_REGION.
func NewAWS() *AWS {
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = 16 })
	return &AWS{region: os.Getenv("AWS_REGION"), timeout: callTimeout, client: client, roles: map[string]aws.CredentialsProvider{}}
}

// Endpoint returns the URL that the environment sets in place of a kind's AWS service, or
// "". variable is the variable that sets it for this service alone; AWS_ENDPOINT_URL sets
// it for all services.
func Endpoint(kind Kind) (url, variable string) {
	s, ok := services[kind]
	if !ok {
		return "", ""
	}
	return endpoint(s.id)
}

func endpoint(service string) (url, variable string) {
	variable = "AWS_ENDPOINT_URL_" + service
	if url = os.Getenv(variable); url == "" {
		url = os.Getenv("AWS_ENDPOINT_URL")
	}
	return url, variable
}

// Send makes one attempt for each delivery of the batch, with several calls at once. It
// returns one result for each delivery, in their order. It returns soon after ctx ends.
func (a *AWS) Send(ctx context.Context, batch Batch) []Result {
	to := batch.Destination
	s, ok := services[to.Kind]
	url, variable := Endpoint(to.Kind)
	to.Region = a.regionOf(to)
	switch {
	case !ok:
		return all(batch.Deliveries, Result{Outcome: Refused, Error: "The kind of the destination is not an AWS service."})
	case a.EndpointsOnly && url == "":
		return all(batch.Deliveries, Result{Outcome: Failed, Error: "No endpoint is configured for " + string(to.Kind) + ": set " + variable + "."})
	case to.Region == "":
		return all(batch.Deliveries, Result{Outcome: Failed, Error: "No region is configured: set the destination's region."})
	}

	results := make([]Result, len(batch.Deliveries))
	var sound []int
	for i, d := range batch.Deliveries {
		if fault := faultOf(to.Kind, d); fault != "" {
			results[i] = Result{ID: d.ID, Outcome: Refused, Error: fault}
		} else {
			sound = append(sound, i)
		}
	}
	config := a.config(s, to)
	var calls errgroup.Group
	calls.SetLimit(s.atOnce)
	if isFIFO(to) { // a queue keeps the order in which calls arrive
		calls.SetLimit(1)
	}
	for _, part := range s.split(batch.Deliveries, sound) {
		calls.Go(func() error {
			deliveries := make([]Delivery, len(part))
			for n, i := range part {
				deliveries[n] = batch.Deliveries[i]
			}
			for n, r := range a.call(ctx, s, config, to, deliveries) {
				results[part[n]] = r
			}
			return nil
		})
	}
	calls.Wait() //nolint:errcheck // no call returns one
	return results
}

// all returns the same result for each delivery.
func all(deliveries []Delivery, r Result) []Result {
	results := make([]Result, len(deliveries))
	for i, d := range deliveries {
		r.ID = d.ID
		results[i] = r
	}
	return results
}

// faultOf returns the reason why a delivery can never be sent, or "".
func faultOf(kind Kind, d Delivery) string {
	completes := kind == StepFunctions || kind == DurableExecution
	var size int
	switch {
	case completes && d.Completion != nil && d.Message == nil:
		size = len(d.Completion.Output)
	case !completes && d.Message != nil && d.Completion == nil:
		size = len(d.Message.Body)
	default:
		return "The delivery does not fit the kind " + string(kind) + ": this is a fault of promises."
	}
	if size > Limit(kind) {
		return "The body is larger than " + string(kind) + " takes: this is a fault of promises."
	}
	return ""
}

// split divides the deliveries with the given indexes into parts for one call each.
func (s service) split(deliveries []Delivery, indexes []int) (parts [][]int) {
	size := 0
	for _, i := range indexes {
		more := reserve
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
func (a *AWS) call(ctx context.Context, s service, config aws.Config, to Destination, deliveries []Delivery) []Result {
	if ctx.Err() != nil {
		return all(deliveries, Result{Outcome: Failed, Error: "The time of the batch ended before this call."})
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	results, err := s.send(ctx, config, to, deliveries)
	if err != nil {
		return all(deliveries, resultOf(to, err))
	}
	for i, d := range deliveries {
		if results[i].ID = d.ID; results[i].Outcome == "" {
			results[i].Outcome, results[i].Error = Failed, "The answer of "+string(to.Kind)+" does not name this message."
		}
	}
	return results
}

func isFIFO(to Destination) bool {
	return (to.Kind == SQS || to.Kind == SNS) && strings.HasSuffix(to.Address, ".fifo")
}

// regionOf returns the region of a destination: its own, or the one in its ARN or in its
// queue's URL, or the sender's.
func (a *AWS) regionOf(to Destination) string {
	if to.Region != "" {
		return to.Region
	}
	if part := strings.Split(to.Address, ":"); part[0] == "arn" && len(part) > 5 && part[3] != "" {
		return part[3]
	}
	if host, ok := strings.CutPrefix(to.Address, "https://sqs."); ok && to.Kind == SQS {
		if region, _, ok := strings.Cut(host, ".amazonaws.com"); ok {
			return region
		}
	}
	return a.region
}

// config returns the configuration of a client for one destination.
func (a *AWS) config(s service, to Destination) aws.Config {
	c := a.base(s.id, to.Region)
	c.Credentials = aws.CredentialsProviderFunc(fromEnvironment)
	if to.RoleARN != "" {
		c.Credentials = a.role(to.RoleARN, to.Region)
	}
	return c
}

// base returns a configuration without credentials. The SDK does not retry with it.
func (a *AWS) base(service, region string) aws.Config {
	c := aws.Config{Region: region, HTTPClient: a.client, Retryer: func() aws.Retryer { return aws.NopRetryer{} }}
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
func (a *AWS) role(arn, region string) aws.CredentialsProvider {
	a.mu.Lock()
	defer a.mu.Unlock()
	if cached := a.roles[arn]; cached != nil {
		return cached
	}
	if len(a.roles) >= maxRoles {
		clear(a.roles)
	}
	if a.region != "" {
		region = a.region
	}
	config := a.base("STS", region)
	config.Credentials = aws.CredentialsProviderFunc(fromEnvironment)
	assumed := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(config), arn, func(o *stscreds.AssumeRoleOptions) { o.RoleSessionName = "promises" })
	a.roles[arn] = aws.NewCredentialsCache(aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		ctx, cancel := context.WithTimeout(ctx, a.timeout) // the cache's context has no end
		defer cancel()
		return assumed.Retrieve(ctx)
	}), func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = time.Minute })
	return a.roles[arn]
}
