package delivery

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// turns has the destinations with due deliveries. Tenants take turns, and so do the
// destinations of each tenant.
type turns struct {
	tenants      []*tenant // in the order of their turns
	destinations map[uuid.UUID]*destination
	byID         map[uuid.UUID]*tenant
}

// A tenant has destinations that are ready or have calls.
type tenant struct {
	id           uuid.UUID
	destinations []*destination // in the order of their turns
	calls        int
	bytes        int // of the calls
	restUntil    time.Time
}

// A destination is ready if it may have more due deliveries.
type destination struct {
	id        uuid.UUID
	tenant    *tenant
	ready     bool
	since     time.Time // the due time of its oldest delivery
	calls     int
	restUntil time.Time
}

func newTurns() *turns {
	return &turns{destinations: map[uuid.UUID]*destination{}, byID: map[uuid.UUID]*tenant{}}
}

// add makes a destination ready.
func (t *turns) add(due promise.DueDestination) {
	d := t.destinations[due.ID]
	if d == nil {
		of := t.byID[due.TenantID]
		if of == nil {
			of = &tenant{id: due.TenantID}
			t.byID[of.id] = of
			t.tenants = append(t.tenants, of)
		}
		d = &destination{id: due.ID, tenant: of}
		t.destinations[d.id] = d
		of.destinations = append(of.destinations, d)
	}
	if !d.ready || due.DueAt.Before(d.since) {
		d.since = due.DueAt
	}
	d.ready = true
}

// next returns the destination whose turn it is, or nil if none can be claimed from now.
// calls and bytes are free: a tenant that has as many of either already waits.
func (t *turns) next(now time.Time, calls, bytes int) *destination {
	for i, of := range t.tenants {
		if of.calls >= min(calls, tenantCalls) || of.bytes >= bytes || now.Before(of.restUntil) {
			continue
		}
		for j, d := range of.destinations {
			if d.ready && d.calls < destinationCalls && !now.Before(d.restUntil) {
				of.destinations = append(slices.Delete(of.destinations, j, j+1), d)
				t.tenants = append(slices.Delete(t.tenants, i, i+1), of)
				return d
			}
		}
	}
	return nil
}

// begin counts a call and its bytes.
func (d *destination) begin(bytes int) {
	d.calls++
	d.tenant.calls++
	d.tenant.bytes += bytes
}

// end ends a call, which made room for another one.
func (t *turns) end(d *destination, bytes int) {
	d.calls--
	d.tenant.calls--
	d.tenant.bytes -= bytes
	d.restUntil, d.tenant.restUntil = time.Time{}, time.Time{}
	t.forget(d)
}

// done makes a destination not ready.
func (t *turns) done(d *destination) {
	d.ready = false
	t.forget(d)
}

// forget removes a destination that is not ready and has no call.
func (t *turns) forget(d *destination) {
	if d.ready || d.calls > 0 {
		return
	}
	of := d.tenant
	delete(t.destinations, d.id)
	of.destinations = slices.DeleteFunc(of.destinations, func(other *destination) bool { return other == d })
	if len(of.destinations) == 0 {
		delete(t.byID, of.id)
		t.tenants = slices.DeleteFunc(t.tenants, func(other *tenant) bool { return other == of })
	}
}
