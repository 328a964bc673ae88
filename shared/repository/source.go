package repository

import (
	"bytes"
	"context"
	_ "embed" // the queries
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/create_source.sql
var createSourceSQL string

//go:embed queries/change_source.sql
var changeSourceSQL string

//go:embed queries/get_source.sql
var getSourceSQL string

//go:embed queries/list_sources.sql
var listSourcesSQL string

//go:embed queries/delete_source.sql
var deleteSourceSQL string

//go:embed queries/touch_source.sql
var touchSourceSQL string

type sourceRow struct {
	ID             *uuid.UUID
	Name           *string
	Version        *int
	Definition     *string
	Enabled        *bool
	CreatedAt      *time.Time
	UpdatedAt      *time.Time
	LastReceivedAt *time.Time
	LastVerifiedAt *time.Time
	LastRefusedAt  *time.Time
	LastRefusal    *string
}

// source returns the source of a row, or promise.ErrNoSource for a row of NULLs.
func (r sourceRow) source() (promise.Source, error) {
	if r.ID == nil {
		return promise.Source{}, promise.ErrNoSource
	}
	s := promise.Source{
		ID: *r.ID, Name: *r.Name, Version: *r.Version, Enabled: *r.Enabled, CreatedAt: *r.CreatedAt, UpdatedAt: *r.UpdatedAt,
		LastReceivedAt: r.LastReceivedAt, LastVerifiedAt: r.LastVerifiedAt, LastRefusedAt: r.LastRefusedAt, LastRefusal: textOf(r.LastRefusal),
	}
	if err := json.Unmarshal([]byte(*r.Definition), &s.SourceDefinition); err != nil {
		return promise.Source{}, fmt.Errorf("definition of source %s: %w", s.ID, err)
	}
	return s, nil
}

// definitionText returns the JSON text that the database stores.
func definitionText(d promise.SourceDefinition) (string, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(d); err != nil {
		return "", fmt.Errorf("definition of a source: %w", err)
	}
	return string(bytes.TrimSuffix(text.Bytes(), []byte("\n"))), nil
}

// A storedSource is a source as one statement has read it.
type storedSource struct {
	promise.Source
	definition string                 // its JSON text
	secrets    []promise.SourceSecret // the active ones, newest first
}

func (r *Repository) storedSource(ctx context.Context, tenant, name string) (storedSource, error) {
	row, err := one[sourceSecretsRow](r.db.Query(ctx, getSourceSQL, named{"tenant": tenant, "name": name}))
	if err != nil {
		return storedSource{}, err
	}
	s, err := row.source()
	if err != nil {
		return storedSource{}, err
	}
	secrets := make([]promise.SourceSecret, len(row.Versions))
	for i, version := range row.Versions {
		secrets[i] = promise.SourceSecret{Version: version, Sealed: row.Sealed[i], CreatedAt: row.CreatedAts[i], RetireAt: row.RetireAts[i]}
	}
	return storedSource{s, *row.Definition, secrets}, nil
}

type sourceSecretsRow struct {
	sourceRow
	Versions   []int
	Sealed     [][]byte
	CreatedAts []time.Time
	RetireAts  []*time.Time
}

// PutSource creates a source, or changes the one with its name. It returns the source
// and its active secrets, newest first. A put that changes nothing writes nothing, so
// that version and updatedAt stay. If a concurrent call changes the source, p.Secret is
// called again, and its last secret counts.
//
// The error is promise.ErrNoSource if the source does not exist and p has no definition,
// CodeQuotaExceeded if the tenant has promise.MaxSources, and CodeConflict if p brings a
// third active secret.
func (r *Repository) PutSource(
	ctx context.Context, tenant string, p promise.SourcePut,
) (s promise.Source, secrets []promise.SourceSecret, created bool, err error) {
	stored, err := retry(ctx, func(*learned) (storedSource, error) {
		found, err := r.storedSource(ctx, tenant, p.Name)
		created = errors.Is(err, promise.ErrNoSource) && p.Definition != nil
		switch {
		case created:
			return r.createSource(ctx, tenant, p)
		case err != nil:
			return storedSource{}, err
		}
		return r.changeSource(ctx, found, p)
	})
	return stored.Source, stored.secrets, created && err == nil, interpret("put source", err)
}

func (r *Repository) createSource(ctx context.Context, tenant string, p promise.SourcePut) (storedSource, error) {
	s := storedSource{Source: promise.Source{SourceDefinition: *p.Definition, ID: p.ID, Name: p.Name, Version: 1, Enabled: p.Enabled == nil || *p.Enabled}}
	sealed, _, err := p.Secret(p.ID, nil, 1)
	if err != nil {
		return storedSource{}, err
	}
	if s.definition, err = definitionText(*p.Definition); err != nil {
		return storedSource{}, err
	}
	row, err := one[createdSourceRow](r.db.Query(ctx, createSourceSQL, named{
		"tenant": tenant, "id": p.ID.String(), "name": p.Name, "definition": s.definition, "enabled": s.Enabled, "sealed": sealed,
		"limit": promise.MaxSources,
	}))
	switch {
	case err != nil:
		return storedSource{}, err
	case row.ID == nil && row.IsFull:
		return storedSource{}, promise.SourcesExceeded()
	case row.ID == nil:
		return storedSource{}, errRaceLost
	}
	s.CreatedAt, s.UpdatedAt = *row.CreatedAt, *row.CreatedAt
	if sealed != nil {
		s.secrets = []promise.SourceSecret{{Version: 1, Sealed: sealed, CreatedAt: *row.CreatedAt}}
	}
	return s, nil
}

type createdSourceRow struct {
	ID        *uuid.UUID
	CreatedAt *time.Time
	IsFull    bool
}

// changeSource applies a put to a source that exists.
func (r *Repository) changeSource(ctx context.Context, s storedSource, p promise.SourcePut) (storedSource, error) {
	c := sourceChange{overlap: p.Overlap}
	if p.Definition != nil {
		text, err := definitionText(*p.Definition)
		if err != nil {
			return storedSource{}, err
		}
		if text != s.definition {
			c.definition = &text
			s.SourceDefinition, s.definition = *p.Definition, text
		}
	}
	if p.Enabled != nil && *p.Enabled != s.Enabled {
		c.enabled = p.Enabled
		s.Enabled = *p.Enabled
	}
	var useless bool
	var err error
	if c.sealed, useless, err = p.Secret(s.ID, slices.Clone(s.secrets), nextVersion(s.secrets)); err != nil {
		return storedSource{}, err
	}
	if c.sealed == nil && c.definition == nil && c.enabled == nil {
		return s, nil
	}
	if c.sealed != nil {
		if useless && len(s.secrets) > 1 {
			c.ends = s.secrets[0].Version
			if at := s.secrets[1].RetireAt; at != nil { // it stays no longer than it would have
				c.overlap = min(c.overlap, max(0, time.Until(*at)))
			}
		}
		if c.former, err = formerSourceSecret(s.secrets, c.ends); err != nil {
			return storedSource{}, thirdSecret(err)
		}
	}
	return r.writeSource(ctx, s, c)
}

// thirdSecret returns the error of a put that brings a third active secret.
func thirdSecret(err error) error {
	return &promise.Error{
		Code: promise.CodeConflict, Field: "secret", Cause: err,
		Detail: "Two secrets of the source are active, and a third would end one. Rotate the secret in place of this call: the rotation's " +
			"replaceVersion names the one that ends.",
	}
}

// A sourceChange is what one statement changes of a source.
type sourceChange struct {
	definition *string
	enabled    *bool
	sealed     []byte                // the newest secret; nil: none is added
	former     *promise.SourceSecret // stays active for overlap
	overlap    time.Duration
	ends       int // this version ends at once; 0: none
}

// writeSource writes a change. It returns errRaceLost if the source has changed since it
// was read.
func (r *Repository) writeSource(ctx context.Context, s storedSource, c sourceChange) (storedSource, error) {
	former, version := 0, nextVersion(s.secrets)
	if c.former != nil {
		former = c.former.Version
	}
	row, err := one[changedSourceRow](r.db.Query(ctx, changeSourceSQL, named{
		"id": s.ID.String(), "seen": s.Version, "definition": c.definition, "enabled": c.enabled, "secret": version, "sealed": c.sealed,
		"former": former, "overlap": c.overlap, "ends": c.ends,
	}))
	if errors.Is(err, pgx.ErrNoRows) {
		err = errRaceLost
	}
	if err != nil {
		return storedSource{}, err
	}
	s.Version, s.UpdatedAt = row.Version, row.UpdatedAt
	if row.CreatedAt == nil {
		return s, nil
	}
	s.secrets = []promise.SourceSecret{{Version: version, Sealed: c.sealed, CreatedAt: *row.CreatedAt}}
	if c.former != nil && c.overlap > 0 {
		c.former.RetireAt = row.RetireAt
		s.secrets = append(s.secrets, *c.former)
	}
	return s, nil
}

type changedSourceRow struct {
	Version   int
	UpdatedAt time.Time
	CreatedAt *time.Time
	RetireAt  *time.Time
}

// RotateSourceSecret adds a secret to a source. seal makes the secret for the source's id
// and the new version. If a concurrent call changes the source, seal is called again, and
// its last secret counts. The first secret of a source is added so, too.
//
// The former secret stays active for rotation.Overlap. At most two secrets are active.
// If two are, rotation.Ends must name the one that ends at once: otherwise the error is
// CodeConflict, because only the caller knows which one the sender has. It returns the
// source and its active secrets, newest first.
func (r *Repository) RotateSourceSecret(
	ctx context.Context, tenant, name string, rotation promise.Rotation, seal func(id uuid.UUID, version int) ([]byte, error),
) (promise.Source, []promise.SourceSecret, error) {
	s, err := retry(ctx, func(*learned) (storedSource, error) {
		s, err := r.storedSource(ctx, tenant, name)
		if err != nil {
			return storedSource{}, err
		}
		c := sourceChange{overlap: rotation.Overlap, ends: rotation.Ends}
		if c.former, err = formerSourceSecret(s.secrets, rotation.Ends); err != nil {
			return storedSource{}, err
		}
		if c.sealed, err = seal(s.ID, nextVersion(s.secrets)); err != nil {
			return storedSource{}, err
		}
		return r.writeSource(ctx, s, c)
	})
	return s.Source, s.secrets, interpret("rotate source secret", err)
}

func nextVersion(active []promise.SourceSecret) int {
	if len(active) == 0 {
		return 1
	}
	return active[0].Version + 1
}

// formerSourceSecret returns the active secret that stays for a while beside a new one,
// or nil if none does.
func formerSourceSecret(active []promise.SourceSecret, ends int) (*promise.SourceSecret, error) {
	all := make([]promise.DestinationSecret, len(active))
	for i, s := range active {
		all[i] = promise.DestinationSecret(s)
	}
	former, err := formerOf(all, ends, "sender")
	if former == nil || err != nil {
		return nil, err
	}
	return new(promise.SourceSecret(*former)), nil
}

// GetSource returns a source with its active secrets, newest first. The error is
// promise.ErrNoSource if there is none.
func (r *Repository) GetSource(ctx context.Context, tenant, name string) (promise.Source, []promise.SourceSecret, error) {
	s, err := retry(ctx, func(*learned) (storedSource, error) { return r.storedSource(ctx, tenant, name) })
	return s.Source, s.secrets, interpret("get source", err)
}

// ListSources lists a tenant's sources by name.
func (r *Repository) ListSources(ctx context.Context, tenant string) ([]promise.Source, error) {
	rows, err := run(ctx, r, "list sources", listSourcesSQL, named{"tenant": tenant}, all[sourceRow])
	if err == nil && len(rows) == 0 {
		err = promise.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	var list []promise.Source
	for _, row := range rows {
		s, err := row.source()
		switch {
		case errors.Is(err, promise.ErrNoSource):
		case err != nil:
			return nil, interpret("list sources", err)
		default:
			list = append(list, s)
		}
	}
	return list, nil
}

// DeleteSource deletes a source and its secrets, and returns its id. The name is free at
// once. Its receipts stay until they expire, and its early settlements wait for their
// promises.
func (r *Repository) DeleteSource(ctx context.Context, tenant, name string) (uuid.UUID, error) {
	row, err := run(ctx, r, "delete source", deleteSourceSQL, named{"tenant": tenant, "name": name}, one[deletedSourceRow])
	switch {
	case err != nil:
		return uuid.Nil, err
	case row.ID == nil:
		return uuid.Nil, promise.ErrNoSource
	}
	return *row.ID, nil
}

type deletedSourceRow struct {
	ID *uuid.UUID
}

// TouchSource records that a source has received a request, and whether it was verified.
// The first touch of its kind within a minute is stored, and no other. An unknown
// source, or an unknown or suspended tenant, has the same cost and no error.
func (r *Repository) TouchSource(ctx context.Context, tenant, name string, at promise.SourceTouch) error {
	_, err := r.db.Exec(ctx, touchSourceSQL, named{"tenant": tenant, "name": name, "id": at.ID.String(), "refusal": nullIfEmpty(at.Refusal)})
	return interpret("touch source", err)
}
