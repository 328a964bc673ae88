package promise

import (
	"regexp"
	"time"

	"github.com/google/uuid"
)

// Tenant is one of those who share the service and know nothing of each other.
type Tenant struct {
	ID          uuid.UUID
	Slug        string
	SuspendedAt *time.Time // since when none of its credentials opens anything
	DeletedAt   *time.Time // since when it is being deleted

	Limits map[string]int64 // in force, by name
	Usage  *Usage           // nil: not counted yet
}

// APIKey is what is kept of a tenant's API key: never the key itself.
type APIKey struct {
	ID              uuid.UUID
	Tenant          string // its slug
	Name            string
	Hash            []byte // SHA-256
	Scopes          []Scope
	CreatedAt       time.Time
	ExpiresAt       *time.Time
	RevokedAt       *time.Time
	TokensRevokedAt *time.Time // when the promise tokens that the key asked for were revoked; nil: they were not
	TenantSuspended bool
}

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckSlug fails with CodeInvalidSlug unless slug is a DNS label of RFC 1123, in
// lower case: 1 to 63 letters, digits and hyphens, with no hyphen at either
// end.
func CheckSlug(slug string) error {
	if !label.MatchString(slug) {
		return Fail(CodeInvalidSlug, "A slug has 1 to 63 lower-case letters, digits and hyphens, and no hyphen at either end.")
	}
	return nil
}
