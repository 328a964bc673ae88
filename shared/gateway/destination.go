package gateway

import (
	"context"
	"encoding/base64"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

type destinationJSON struct {
	DestinationID   uuid.UUID               `json:"destinationId"`
	Name            string                  `json:"name"`
	Kind            promise.DestinationKind `json:"kind"`
	URL             string                  `json:"url,omitempty"`
	Address         string                  `json:"address,omitempty"`
	From            string                  `json:"from,omitempty"`
	Region          string                  `json:"region,omitempty"`
	RoleARN         string                  `json:"roleArn,omitempty"`
	Enabled         bool                    `json:"enabled"`
	DisabledBecause string                  `json:"disabledBecause,omitempty"`
	Default         bool                    `json:"default"`
	CreatedAt       time.Time               `json:"createdAt"`
	UpdatedAt       time.Time               `json:"updatedAt"`
	Secrets         []secretJSON            `json:"secrets,omitempty"`
	Secret          string                  `json:"secret,omitempty"` // only in the answer to the call that made it
	Created         *bool                   `json:"created,omitempty"`
}

type secretJSON struct {
	Version   int        `json:"version"`
	CreatedAt time.Time  `json:"createdAt"`
	RetiresAt *time.Time `json:"retiresAt,omitempty"`
}

func toDestinationJSON(d promise.Destination) destinationJSON {
	j := destinationJSON{
		DestinationID: d.ID, Name: d.Name, Kind: d.Kind, Address: d.Address, From: d.From, Region: d.Region, RoleARN: d.RoleARN,
		Enabled: d.Enabled, DisabledBecause: d.DisabledBecause, Default: d.Default, CreatedAt: d.CreatedAt.UTC(), UpdatedAt: d.UpdatedAt.UTC(),
	}
	if d.Kind == promise.DestinationHTTPS {
		j.URL, j.Address = d.Address, ""
	}
	return j
}

func toSecretsJSON(secrets []promise.DestinationSecret) []secretJSON {
	list := make([]secretJSON, len(secrets))
	for i, s := range secrets {
		list[i] = secretJSON{s.Version, s.CreatedAt.UTC(), utc(s.RetireAt)}
	}
	return list
}

// listDestinations pages through a list that is short: promise.MaxDestinations bounds it.
func listDestinations(ctx context.Context, h *Handler, c *call) (answer, error) {
	p, err := readNamePage(c.parameters, promise.CheckDestinationName)
	if err != nil {
		return answer{}, err
	}
	destinations, err := h.Store.ListDestinations(ctx, c.tenant)
	if err != nil {
		return answer{}, err
	}
	list, next := pageByName(p, destinations, func(d promise.Destination) string { return d.Name })
	page := struct {
		Destinations []destinationJSON `json:"destinations"`
		NextCursor   string            `json:"nextCursor,omitempty"`
	}{make([]destinationJSON, len(list)), next}
	for i, d := range list {
		page.Destinations[i] = toDestinationJSON(d)
	}
	return answer{status: http.StatusOK, body: encode(page)}, nil
}

// A nameRange is a page of a list that is ordered by name.
type nameRange struct {
	after string
	limit int
}

func readNamePage(p parameters, check func(name string) error) (r nameRange, err error) {
	limit, err := p.integer("limit", maxPage, 1, maxPage)
	if err != nil {
		return r, err
	}
	cursor, err := p.text("cursor")
	if err != nil {
		return r, err
	}
	if cursor != nil {
		name, err := base64.RawURLEncoding.Strict().DecodeString(*cursor)
		if r.after = string(name); err != nil || check(r.after) != nil || nameCursor(r.after) != *cursor {
			return r, fieldError("cursor", promise.CodeInvalidParameter, "cursor must be a nextCursor from a previous page, unchanged.")
		}
	}
	r.limit = int(limit)
	return r, nil
}

// pageByName returns the page of a list that is ordered by name, and the cursor of the
// next page. The cursor is empty if there is none.
func pageByName[T any](r nameRange, list []T, nameOf func(T) string) (page []T, next string) {
	first := 0
	for first < len(list) && nameOf(list[first]) <= r.after {
		first++
	}
	if list = list[first:]; len(list) > r.limit {
		list = list[:r.limit]
		next = nameCursor(nameOf(list[r.limit-1]))
	}
	return list, next
}

func nameCursor(name string) string { return base64.RawURLEncoding.EncodeToString([]byte(name)) }

func getDestination(ctx context.Context, h *Handler, c *call) (answer, error) {
	d, secrets, err := h.Store.GetDestination(ctx, c.tenant, c.name)
	if err != nil {
		return answer{}, err
	}
	j := toDestinationJSON(d)
	j.Secrets = toSecretsJSON(secrets)
	return answer{status: http.StatusOK, body: encode(j)}, nil
}

// putDestination creates or changes a destination of the kind https. With enabled
// alone, it pauses or enables a destination of any kind.
func putDestination(ctx context.Context, h *Handler, c *call) (answer, error) {
	enabled, err := c.body.optionalFlag("enabled")
	if err != nil {
		return answer{}, err
	}
	_, hasKind := c.body.get("kind")
	_, hasURL := c.body.get("url")
	if enabled != nil && !hasKind && !hasURL {
		d, err := h.Store.EnableDestination(ctx, c.tenant, c.name, *enabled)
		if err != nil {
			return answer{}, err
		}
		j := toDestinationJSON(d)
		j.Created = new(bool)
		return answer{status: http.StatusOK, body: encode(j)}, nil
	}
	d, err := readDestination(c.body, c.name, h.Integrations)
	if err != nil {
		return answer{}, err
	}
	j, err := h.Integrations.put(ctx, h.Store, c.tenant, d, enabled)
	if err != nil {
		return answer{}, err
	}
	status := http.StatusOK
	if *j.Created {
		status = http.StatusCreated
	}
	return answer{status: status, body: encode(j)}, nil
}

// readDestination reads the destination that a tenant puts.
func readDestination(o object, name string, i Integrations) (promise.Destination, error) {
	kind, err := o.requiredText("kind")
	if err != nil {
		return promise.Destination{}, err
	}
	d := promise.Destination{Name: name, Kind: promise.DestinationKind(kind)}
	if d.Kind != promise.DestinationHTTPS && slices.Contains(promise.DestinationKinds, d.Kind) {
		return d, fieldError("kind", promise.CodeForbidden,
			"A tenant puts destinations of the kind https. The operator puts one of the kind "+kind+" with manage-tenants.")
	}
	if d.Kind == promise.DestinationHTTPS {
		if d.Address, err = o.requiredText("url"); err != nil {
			return d, err
		}
	}
	return d, i.check(d)
}

// check returns an error for a destination that neither a tenant nor the operator may
// put.
func (i Integrations) check(d promise.Destination) error {
	if err := promise.CheckDestination(d); err != nil {
		return err
	}
	if d.Kind != promise.DestinationHTTPS {
		return nil
	}
	if err := i.CheckURL(d.Address); err != nil {
		return fieldError("url", promise.CodeOutOfRange, "The service cannot send to this URL: "+err.Error()+". Send https://host/path, with a public host.")
	}
	return nil
}

// put stores a destination. The answer has the secret of a new one.
func (i Integrations) put(ctx context.Context, store DestinationPutter, tenant string, d promise.Destination, enabled *bool) (destinationJSON, error) {
	d.ID = uuid.New()
	var secret string
	var sealed []byte
	var err error
	if d.Kind == promise.DestinationHTTPS {
		if secret, sealed, err = i.NewSecret(ctx, d.ID, 1); err != nil {
			return destinationJSON{}, err
		}
	}
	d, created, err := store.PutDestination(ctx, tenant, d, enabled, sealed)
	if err != nil {
		return destinationJSON{}, err
	}
	j := toDestinationJSON(d)
	if j.Created = &created; created {
		j.Secret = secret
	}
	return j, nil
}

type deletedDestinationJSON struct {
	DestinationID uuid.UUID `json:"destinationId"`
	Name          string    `json:"name"`
	Deleted       bool      `json:"deleted"`
}

func deleteDestination(ctx context.Context, h *Handler, c *call) (answer, error) {
	id, err := h.Store.DeleteDestination(ctx, c.tenant, c.name)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: encode(deletedDestinationJSON{id, c.name, true})}, nil
}

func rotateSecret(ctx context.Context, h *Handler, c *call) (answer, error) {
	r, err := readRotation(c.body)
	if err != nil {
		return answer{}, err
	}
	var secret string
	d, secrets, err := h.Store.RotateDestinationSecret(ctx, c.tenant, c.name, r, func(id uuid.UUID, version int) (sealed []byte, err error) {
		secret, sealed, err = h.Integrations.NewSecret(ctx, id, version)
		return sealed, err
	})
	if err != nil {
		return answer{}, err
	}
	j := toDestinationJSON(d)
	j.Secrets, j.Secret = toSecretsJSON(secrets), secret
	return answer{status: http.StatusOK, body: encode(j)}, nil
}

// readRotation reads overlapSeconds and replaceVersion.
func readRotation(o object) (promise.Rotation, error) {
	r := promise.Rotation{Overlap: promise.DefaultOverlap}
	overlap, err := o.optionalInteger("overlapSeconds", 0, int64(promise.MaxOverlap/time.Second))
	if err != nil {
		return r, err
	}
	ends, err := o.optionalInteger("replaceVersion", 1, math.MaxInt32)
	if err != nil {
		return r, err
	}
	if overlap != nil {
		r.Overlap = time.Duration(*overlap) * time.Second
	}
	if ends != nil {
		r.Ends = int(*ends)
	}
	return r, nil
}

// testTime bounds a test. The receiver has 15 s of it, and API Gateway gives 30 s.
const testTime = 25 * time.Second

type testJSON struct {
	Outcome    string `json:"outcome"`
	Status     int    `json:"status,omitempty"`
	Error      string `json:"error,omitempty"`
	DurationMS int64  `json:"durationMs"`
}

// testDestination sends one signed message, even to a destination that is paused or
// disabled. It succeeds whatever the receiver answers.
func testDestination(ctx context.Context, h *Handler, c *call) (answer, error) {
	lookup, stop := context.WithDeadline(ctx, c.answerBy)
	defer stop()
	d, secrets, err := h.Store.GetDestination(lookup, c.tenant, c.name)
	if err != nil {
		return answer{}, err
	}
	if d.Kind.TakesToken() {
		return answer{}, promise.Fail(promise.CodeConflict,
			"A destination of the kind "+string(d.Kind)+" cannot be tested: only a waiting task can be completed. Create a promise with a target instead.")
	}
	id := uuid.New()
	switch counted, err := h.Store.BeginTest(lookup, c.tenant, id, testTime+endTimeout, promise.MaxTests); {
	case err != nil:
		return answer{}, err
	case !counted:
		return answer{}, promise.TestsExceeded()
	}
	defer h.endTest(ctx, c.tenant, id)
	ctx, stop = context.WithTimeout(ctx, testTime)
	defer stop()
	begin := time.Now()
	r, err := h.Integrations.Test(ctx, c.tenant, d, secrets)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: encode(testJSON{r.Outcome, r.Status, r.Error, time.Since(begin).Milliseconds()})}, nil
}

// endTest removes a test from its tenant's count.
func (h *Handler) endTest(ctx context.Context, tenant string, id uuid.UUID) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer stop()
	if err := h.Store.EndTest(ctx, id); err != nil {
		h.Log.LogAttrs(ctx, slog.LevelWarn, "test stays counted until it expires", slog.String("tenant", tenant), slog.String("cause", err.Error()))
	}
}

// setDefaultDestination sets the destination of promises that are created without
// notify. It takes null: no default.
func setDefaultDestination(ctx context.Context, h *Handler, c *call) (answer, error) {
	raw, err := c.body.required("destination")
	if err != nil {
		return answer{}, err
	}
	var name *string
	if string(raw) != "null" {
		if raw[0] != '"' {
			return answer{}, fieldError("destination", promise.CodeWrongType, "destination must be a string, or null for no default.")
		}
		text, err := text("destination", raw)
		if err != nil {
			return answer{}, err
		}
		if err := promise.CheckDestinationName(text); err != nil {
			return answer{}, within("destination", err)
		}
		name = &text
	}
	if err := h.Store.SetDefaultDestination(ctx, c.tenant, name); err != nil {
		if e := promise.AsError(err); e.Code == promise.CodeUnknownDestination || e.Code == promise.CodeConflict {
			err = within("destination", err)
		}
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: encode(map[string]*string{"destination": name})}, nil
}
