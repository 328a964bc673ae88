package gateway

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// limitNames are the fields of set-limits beside the slug.
var limitNames = func() (names []string) {
	for _, l := range promise.Limits {
		names = append(names, l.Name)
	}
	return names
}()

// setLimits changes the limits that the call gives: a number sets a limit, and null
// restores its default.
func setLimits(ctx context.Context, h *TenantHandler, o object) (any, error) {
	slug, err := o.requiredText("slug")
	if err != nil {
		return nil, err
	}
	limits := map[string]*int64{}
	for _, l := range promise.Limits {
		raw, ok := o.get(l.Name)
		if !ok {
			continue
		}
		if string(raw) == "null" {
			limits[l.Name] = nil
			continue
		}
		if limits[l.Name], err = o.optionalInteger(l.Name, l.Min, l.Max); err != nil {
			return nil, err
		}
	}
	if len(limits) == 0 {
		return nil, fieldError(promise.Limits[0].Name, promise.CodeMissingField,
			"No limit is given. Send a number, or null for the default, in one or more of: "+strings.Join(limitNames, ", ")+".")
	}
	t, err := h.Store.SetLimits(ctx, slug, limits)
	return toTenantJSON(t), unknownTenant("slug", err)
}

const (
	maxCounted  = 100_000 // a dry run counts no further
	deleteBatch = 2_000
	deletePause = 50 * time.Millisecond // before the next batch, if other transactions have locked the rows that are left
)

type contentsJSON struct {
	Promises           int64 `json:"promises"`
	IdempotencyKeys    int64 `json:"idempotencyKeys"`
	Events             int64 `json:"events"`
	WorkflowExecutions int64 `json:"workflowExecutions"`
	APIKeys            int64 `json:"apiKeys"`
}

func toContentsJSON(c promise.Contents) contentsJSON {
	return contentsJSON{c.Promises, c.Keys, c.Events, c.Executions, c.APIKeys}
}

// A dryRunJSON counts a tenant's contents. AtLeast names the counts that stopped at
// maxCounted.
type dryRunJSON struct {
	TenantID uuid.UUID    `json:"tenantId"`
	Slug     string       `json:"slug"`
	DryRun   bool         `json:"dryRun"`
	Contains contentsJSON `json:"contains"`
	AtLeast  []string     `json:"atLeast,omitempty"`
}

type deletionJSON struct {
	TenantID   *uuid.UUID   `json:"tenantId,omitempty"`
	Slug       string       `json:"slug"`
	Deleted    contentsJSON `json:"deleted"`
	Done       bool         `json:"done"`
	SlugFreeAt *time.Time   `json:"slugFreeAt,omitempty"`
}

// deleteTenant counts a tenant's contents. With confirm, it deletes as much of them
// as half the call's time allows.
func deleteTenant(ctx context.Context, h *TenantHandler, o object) (any, error) {
	begin := time.Now()
	slug, err := o.requiredText("slug")
	if err != nil {
		return nil, err
	}
	confirm, err := o.flag("confirm")
	if err != nil {
		return nil, err
	}
	if !confirm {
		return dryRun(ctx, h, slug)
	}
	j := deletionJSON{Slug: slug}
	for !j.Done && time.Since(begin) < h.Timeout/2 {
		d, err := h.Store.DeleteTenant(ctx, slug, deleteBatch)
		if err != nil {
			return nil, unknownTenant("slug", err)
		}
		j.Deleted.add(d.Deleted)
		if j.Done = d.Done; j.Done {
			j.TenantID, j.SlugFreeAt = &d.TenantID, utc(&d.FreeAt)
		} else if d.Deleted == (promise.Contents{}) {
			time.Sleep(deletePause)
		}
	}
	return j, nil
}

func (j *contentsJSON) add(c promise.Contents) {
	j.Promises += c.Promises
	j.IdempotencyKeys += c.Keys
	j.Events += c.Events
	j.WorkflowExecutions += c.Executions
	j.APIKeys += c.APIKeys
}

func dryRun(ctx context.Context, h *TenantHandler, slug string) (any, error) {
	t, err := h.Store.FindTenant(ctx, slug)
	if err != nil {
		return nil, unknownTenant("slug", err)
	}
	c, err := h.Store.TenantContents(ctx, slug, maxCounted)
	if err != nil {
		return nil, unknownTenant("slug", err)
	}
	j := dryRunJSON{TenantID: t.ID, Slug: slug, DryRun: true, Contains: toContentsJSON(c)}
	for _, count := range []struct {
		name string
		n    *int64
	}{
		{"promises", &j.Contains.Promises},
		{"idempotencyKeys", &j.Contains.IdempotencyKeys},
		{"events", &j.Contains.Events},
		{"workflowExecutions", &j.Contains.WorkflowExecutions},
		{"apiKeys", &j.Contains.APIKeys},
	} {
		if *count.n > maxCounted {
			*count.n = maxCounted
			j.AtLeast = append(j.AtLeast, count.name)
		}
	}
	return j, nil
}
