package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/google/uuid"
)

const integrations = "manage-integrations"

// A Destination is a place that a tenant's promises notify. Empty fields are absent.
type Destination struct {
	DestinationID   uuid.UUID `json:"destinationId"`
	Name            string    `json:"name"`
	Kind            string    `json:"kind"`    // https, or one that the operator puts
	URL             string    `json:"url"`     // https
	Address         string    `json:"address"` // other kinds
	From            string    `json:"from"`
	Region          string    `json:"region"`
	RoleARN         string    `json:"roleArn"`
	Enabled         bool      `json:"enabled"`
	DisabledBecause string    `json:"disabledBecause"`
	Default         bool      `json:"default"`
	CreatedAt       time.Time `json:"createdAt"`
	UpdatedAt       time.Time `json:"updatedAt"`

	Secrets []SecretVersion `json:"secrets"` // of GetDestination and a rotation, the newest first
	Secret  string          `json:"secret"`  // only in the answer to the call that made it
	New     bool            `json:"created"` // PutDestination: this call created it
}

// A SecretVersion is an active secret, without the secret.
type SecretVersion struct {
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"createdAt"`
	RetiresAt time.Time `json:"retiresAt"` // zero: the newest
}

// PutDestination creates a destination of the kind https, or changes its URL. The answer of
// the call that creates it has the secret that signs its messages, and no later one has it.
//
// So the client does not repeat a put that may have been applied. If the error says
// MaybeApplied and a second put returns no secret, RotateDestinationSecret makes another.
func (c *Client) PutDestination(ctx context.Context, name, url string) (Destination, error) {
	var f fields
	f.text("kind", "https")
	f.text("url", url)
	return c.destination(ctx, Request{Action: "put-destination", Method: "PUT", Body: f.list, Once: true, err: f.err}, name, "")
}

// EnableDestination pauses a destination of any kind, so that its due deliveries wait, or
// enables it again. It may be repeated.
func (c *Client) EnableDestination(ctx context.Context, name string, enabled bool) (Destination, error) {
	var f fields
	f.flag("enabled", enabled)
	return c.destination(ctx, Request{Action: "put-destination", Method: "PUT", Body: f.list}, name, "")
}

// GetDestination returns a destination and the versions of its secrets.
func (c *Client) GetDestination(ctx context.Context, name string) (Destination, error) {
	return c.destination(ctx, Request{Action: "get-destination", Method: "GET"}, name, "")
}

func (c *Client) destination(ctx context.Context, r Request, name, verb string) (d Destination, err error) {
	return d, c.manage(ctx, r, "destinations", name, verb, &d)
}

// manage sends a call for a destination or a source.
func (c *Client) manage(ctx context.Context, r Request, folder, name, verb string, out any) error {
	target, path, err := named(folder, name)
	r.Function, r.Target, r.Path, r.err = integrations, target, path+verb, join(r.err, err)
	return c.call(ctx, r, out)
}

// Destinations returns the tenant's destinations, by name, as List does.
func (c *Client) Destinations(ctx context.Context) iter.Seq2[Destination, error] {
	return pages[Destination](ctx, c, Request{Function: integrations, Action: "list-destinations", Path: "/destinations"}, "destinations", nil, 0)
}

// DeleteDestination deletes a destination. Its secrets are gone at once, and deliveries to
// it end as DeliveryGone. It may be repeated: CodeNotFound after an attempt that may have
// been applied is a success.
func (c *Client) DeleteDestination(ctx context.Context, name string) error {
	return c.remove(ctx, "delete-destination", "destinations", name)
}

func (c *Client) remove(ctx context.Context, action, folder, name string) error {
	target, path, err := named(folder, name)
	r := Request{Function: integrations, Action: action, Method: "DELETE", Path: path, Target: target, err: err}
	a, lost, err := c.sendCounted(ctx, r)
	switch {
	case lost && errors.Is(err, CodeNotFound):
		return nil
	case err != nil:
		return err
	}
	return decode(r, a, nil)
}

// A Rotation asks for a new secret.
type Rotation struct {
	Overlap        *time.Duration // how long the former secret stays active, at most 7 days; nil: a day
	ReplaceVersion int            // this version ends at once; 0: none
}

func (r Rotation) add(f *fields) {
	if r.Overlap != nil {
		f.units("overlapSeconds", *r.Overlap, time.Second)
	}
	if r.ReplaceVersion != 0 {
		f.number("replaceVersion", int64(r.ReplaceVersion))
	}
}

// RotateDestinationSecret gives a destination a new secret, which the answer has. The
// former one stays active for the overlap, so that the receiver can change over.
//
// Each rotation is another one, so the client does not repeat one that may have been
// applied. If the error says MaybeApplied, repeat it with the newest version of
// GetDestination as ReplaceVersion: the receiver's secret then stays active.
func (c *Client) RotateDestinationSecret(ctx context.Context, name string, rotation Rotation) (Destination, error) {
	f := fields{list: []Field{}}
	rotation.add(&f)
	return c.destination(ctx, Request{Action: "rotate-secret", Method: "POST", Body: f.list, Once: true}, name, "/rotate-secret")
}

// A TestResult is the result of a test of a destination.
type TestResult struct {
	Outcome    string `json:"outcome"` // delivered, failed, refused, disabled or throttled
	Status     int    `json:"status"`  // the receiver's, of HTTP
	Error      string `json:"error"`
	DurationMS int64  `json:"durationMs"`
}

// TestDestination sends one message of the type destination.test, and returns what became
// of it after at most 25 s. A receiver that refuses it is no error. The client does not
// repeat a test that may have been sent.
func (c *Client) TestDestination(ctx context.Context, name string) (TestResult, error) {
	var result TestResult
	err := c.manage(ctx, Request{Action: "test-destination", Method: "POST", Once: true}, "destinations", name, "/test", &result)
	return result, err
}

// SetDefaultDestination sets the destination of promises that are created without Notify.
// An empty name sets none. It may be repeated.
func (c *Client) SetDefaultDestination(ctx context.Context, name string) error {
	var f fields
	if name == "" {
		f.value("destination", nil)
	} else {
		f.text("destination", name)
	}
	return c.call(ctx, Request{
		Function: integrations, Action: "set-default-destination", Method: "PUT", Path: "/default-destination", Body: f.list, err: f.err,
	}, nil)
}
