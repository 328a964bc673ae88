package gateway

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// A sourceJSON is a source without its secrets. URL is the place to which the sender
// posts. SignedURL is the definition's url.
type sourceJSON struct {
	SourceID  uuid.UUID `json:"sourceId"`
	Name      string    `json:"name"`
	URL       string    `json:"url"`
	SignedURL string    `json:"signedUrl,omitempty"`
	promise.SourceDefinition
	Enabled        bool         `json:"enabled"`
	CreatedAt      time.Time    `json:"createdAt"`
	UpdatedAt      time.Time    `json:"updatedAt"`
	LastReceivedAt *time.Time   `json:"lastReceivedAt,omitempty"`
	LastVerifiedAt *time.Time   `json:"lastVerifiedAt,omitempty"`
	LastRefusedAt  *time.Time   `json:"lastRefusedAt,omitempty"`
	LastRefusal    string       `json:"lastRefusal,omitempty"`
	Secrets        []secretJSON `json:"secrets,omitzero"` // nil: they are not shown
	Secret         string       `json:"secret,omitempty"` // only in the answer to the call that made it
	Created        *bool        `json:"created,omitempty"`
}

func (h *Handler) toSourceJSON(ctx context.Context, c *call, s promise.Source) (sourceJSON, error) {
	segment, err := h.Webhooks.Segment(ctx, c.tenant, s.Name)
	j := sourceJSON{
		SourceID: s.ID, Name: s.Name, URL: h.sourceURL(c, segment), SignedURL: s.URL, SourceDefinition: s.SourceDefinition,
		Enabled: s.Enabled, CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.UpdatedAt.UTC(),
		LastReceivedAt: utc(s.LastReceivedAt), LastVerifiedAt: utc(s.LastVerifiedAt), LastRefusedAt: utc(s.LastRefusedAt), LastRefusal: s.LastRefusal,
	}
	return j, err
}

func toSourceSecretsJSON(secrets []promise.SourceSecret) []secretJSON {
	list := make([]secretJSON, len(secrets))
	for i, s := range secrets {
		list[i] = secretJSON{s.Version, s.CreatedAt.UTC(), utc(s.RetireAt)}
	}
	return list
}

// listSources pages through a list that is short: promise.MaxSources bounds it.
func listSources(ctx context.Context, h *Handler, c *call) (answer, error) {
	p, err := readNamePage(c.parameters, promise.CheckSourceName)
	if err != nil {
		return answer{}, err
	}
	sources, err := h.Store.ListSources(ctx, c.tenant)
	if err != nil {
		return answer{}, err
	}
	sources, next := pageByName(p, sources, func(s promise.Source) string { return s.Name })
	list := make([]sourceJSON, len(sources))
	for i, s := range sources {
		if list[i], err = h.toSourceJSON(ctx, c, s); err != nil {
			return answer{}, err
		}
	}
	text, fit := page("sources", len(list), func(i int) []byte { return encode(list[i]) })
	if fit < len(list) {
		next = nameCursor(list[fit-1].Name)
	}
	if next != "" {
		text.set("nextCursor", encode(next))
	}
	return answer{status: http.StatusOK, body: text}, nil
}

func getSource(ctx context.Context, h *Handler, c *call) (answer, error) {
	s, secrets, err := h.Store.GetSource(ctx, c.tenant, c.name)
	if err != nil {
		return answer{}, err
	}
	j, err := h.toSourceJSON(ctx, c, s)
	if err != nil {
		return answer{}, err
	}
	j.Secrets = toSourceSecretsJSON(secrets)
	return answer{status: http.StatusOK, body: encode(j)}, nil
}

// putSource creates or changes a source. With enabled alone, it disables or enables one
// that exists.
func putSource(ctx context.Context, h *Handler, c *call) (answer, error) {
	enabled, err := c.body.optionalFlag("enabled")
	if err != nil {
		return answer{}, err
	}
	var n newSecret
	put := promise.SourcePut{
		ID: uuid.New(), Name: c.name, Enabled: enabled, Overlap: promise.DefaultOverlap,
		Secret: func(id uuid.UUID, active []promise.SourceSecret, version int) ([]byte, bool, error) {
			return n.next(ctx, id, active, version)
		},
	}
	if enabled == nil || c.body.hasAny(append([]string{"secret"}, definitionFields...)) {
		d, err := readDefinition(c.body)
		if err != nil {
			return answer{}, err
		}
		if n.given, err = c.body.optionalText("secret"); err != nil {
			return answer{}, err
		}
		if err := h.Webhooks.CheckDefinition(c.name, &d); err != nil {
			return answer{}, err
		}
		n.webhooks, n.verifier = h.Webhooks, d.Verifier
		put.Definition = &d
	}
	s, secrets, created, err := h.Store.PutSource(ctx, c.tenant, put)
	if err != nil {
		return answer{}, err
	}
	j, err := h.toSourceJSON(ctx, c, s)
	if err != nil {
		return answer{}, err
	}
	j.Secrets, j.Secret, j.Created = toSourceSecretsJSON(secrets), n.made, &created
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return answer{status: status, body: encode(j)}, nil
}

// hasAny reports whether the object has one of the fields.
func (o object) hasAny(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { _, ok := o.get(name); return ok })
}

// A newSecret decides on the next secret of a source that is put.
type newSecret struct {
	webhooks Webhooks // nil: the source keeps its secrets
	verifier promise.SourceVerifier
	given    *string // the sender's; nil: the call has none
	made     string  // the service's; empty: it made none
}

// next returns the sealed secret, or nil if the source keeps those that it has. useless
// reports whether the verifier needs another form than the newest secret has. The store
// may call it again: the last secret counts. It returns CodeMissingField if the newest is
// useless, and only the sender can make another.
func (n *newSecret) next(ctx context.Context, id uuid.UUID, active []promise.SourceSecret, version int) (sealed []byte, useless bool, err error) {
	n.made = ""
	if n.webhooks == nil {
		return nil, false, nil
	}
	if len(active) > 0 {
		fits, err := n.webhooks.FitsSecret(ctx, n.verifier, id, active[0])
		same := fits && n.given == nil
		if err == nil && fits && n.given != nil {
			same, err = n.webhooks.SameSecret(ctx, id, active[0], *n.given)
		}
		if same || err != nil {
			return nil, false, err
		}
		useless = !fits
	}
	secret, sealed, err := n.webhooks.NewSecret(ctx, n.verifier, id, version, n.given)
	switch {
	case n.given != nil:
		return sealed, useless, err
	case err != nil && promise.AsError(err).Code == promise.CodeMissingField && len(active) == 0: // the source waits for the sender's
		return nil, false, nil
	}
	n.made = secret
	return sealed, useless, err
}

type deletedSourceJSON struct {
	SourceID uuid.UUID `json:"sourceId"`
	Name     string    `json:"name"`
	Deleted  bool      `json:"deleted"`
}

func deleteSource(ctx context.Context, h *Handler, c *call) (answer, error) {
	id, err := h.Store.DeleteSource(ctx, c.tenant, c.name)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: encode(deletedSourceJSON{id, c.name, true})}, nil
}

// rotateSourceSecret gives a source a new secret. It makes the secret, unless the call
// has one. The same secret again changes nothing.
func rotateSourceSecret(ctx context.Context, h *Handler, c *call) (answer, error) {
	rotation, err := readRotation(c.body)
	if err != nil {
		return answer{}, err
	}
	given, err := c.body.optionalText("secret")
	if err != nil {
		return answer{}, err
	}
	s, secrets, err := h.Store.GetSource(ctx, c.tenant, c.name)
	if err != nil {
		return answer{}, err
	}
	repeated, err := h.isNewest(ctx, s.ID, secrets, given, rotation)
	if err != nil {
		return answer{}, err
	}
	made := ""
	if !repeated {
		s, secrets, err = h.Store.RotateSourceSecret(ctx, c.tenant, c.name, rotation, func(id uuid.UUID, version int) (sealed []byte, err error) {
			made, sealed, err = h.Webhooks.NewSecret(ctx, s.Verifier, id, version, given)
			return sealed, err
		})
		if err != nil {
			return answer{}, err
		}
	}
	j, err := h.toSourceJSON(ctx, c, s)
	if err != nil {
		return answer{}, err
	}
	if j.Secrets = toSourceSecretsJSON(secrets); given == nil {
		j.Secret = made
	}
	return answer{status: http.StatusOK, body: encode(j)}, nil
}

// isNewest reports whether the given secret is the newest one already, as after a
// rotation that is repeated. It returns an error if the call would also end a version
// that is active.
func (h *Handler) isNewest(
	ctx context.Context, id uuid.UUID, active []promise.SourceSecret, given *string, r promise.Rotation,
) (bool, error) {
	if given == nil || len(active) == 0 {
		return false, nil
	}
	same, err := h.Webhooks.SameSecret(ctx, id, active[0], *given)
	if same && slices.ContainsFunc(active, func(s promise.SourceSecret) bool { return s.Version == r.Ends }) {
		return false, fieldError("secret", promise.CodeConflict,
			"This secret is the newest one already, so no version can end for it. Send another secret, or leave replaceVersion out.")
	}
	return same, err
}
