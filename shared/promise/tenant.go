package promise

import (
	"regexp"
	"time"

	"github.com/google/uuid"
)

// A Tenant is one customer of the service. Tenants share the service and cannot
// see each other.
type Tenant struct {
	ID          uuid.UUID
	Slug        string
	SuspendedAt *time.Time // from then on its credentials authorize nothing; nil: not suspended
	DeletedAt   *time.Time // its deletion began then; nil: not being deleted

	Limits map[string]int64 // in force, by name
	Usage  *Usage           // nil: not counted yet
}

// An APIKey is the record of a tenant's API key. The service stores the key's hash
// and never the key.
type APIKey struct {
	ID              uuid.UUID
	Tenant          string // the tenant's slug
	Name            string
	Hash            []byte // SHA-256
	Scopes          []Scope
	CreatedAt       time.Time
	ExpiresAt       *time.Time
	RevokedAt       *time.Time
	TokensRevokedAt *time.Time // the revocation of the promise tokens that the key asked for; nil: none
	TenantSuspended bool
}

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckSlug fails with CodeInvalidSlug unless slug is a DNS label of RFC 1123, in
// lower case: 1 to 63 letters, digits and hyphens, with no hyphen at either
// end.
func CheckSlug(slug string) error {
	if !label.MatchString(slug) {
		return Fail(CodeInvalidSlug, "A slug must have 1 to 63 lower-case letters, digits and hyphens, and no hyphen at either end.")
	}
	return nil
}
