package auth

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/flovyn/promises/shared/promise"
)

// Identify returns the principal of an Authorization header, "Bearer <API key or
// token>", or of the token in a callback URL. It refuses an API key in a URL,
// because URLs are logged. The principal is promise.KindAnonymous if the credential
// is invalid; the error is Authorize's.
func (a *Authorizer) Identify(ctx context.Context, source string, inHeader bool) (promise.Principal, error) {
	anonymous := promise.Principal{By: promise.By{Kind: promise.KindAnonymous}}
	credential := source
	if inHeader {
		scheme, rest, ok := strings.Cut(source, " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return anonymous, nil
		}
		credential = strings.TrimLeft(rest, " ")
	} else if LooksLikeAPIKey(credential) {
		return anonymous, nil
	}
	p, ok, err := a.Authorize(ctx, credential)
	if err != nil || !ok {
		return anonymous, err
	}
	return p, nil
}

// A request is the part of an API Gateway REQUEST authorizer's event (payload
// format 2.0) that Invoke reads.
type request struct {
	IdentitySource []string `json:"identitySource"`
}

// A verdict is a simple response to API Gateway's authorizer event.
type verdict struct {
	IsAuthorized bool              `json:"isAuthorized"`
	Context      map[string]string `json:"context,omitempty"`
}

// Invoke answers API Gateway's REQUEST authorizers, payload format 2.0, with
// their simple response. It implements lambda.Handler. Its answer depends on the
// identity source alone, because API Gateway caches it for every route of the
// authorizer.
//
// If a credential cannot be looked up, Invoke lets the call through as
// promise.KindUnverified, because an error would become a 500 for the caller. The
// operation then repeats the look-up, or answers 503.
func (a *Authorizer) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	var r request
	if err := json.Unmarshal(payload, &r); err != nil || len(r.IdentitySource) != 1 {
		return json.Marshal(verdict{})
	}
	p, err := a.Identify(ctx, r.IdentitySource[0], true)
	switch {
	case err != nil:
		a.log.ErrorContext(ctx, "cannot look up the credential", "cause", err.Error())
		return json.Marshal(verdict{IsAuthorized: true, Context: map[string]string{"kind": string(promise.KindUnverified)}})
	case p.Kind == promise.KindAnonymous:
		return json.Marshal(verdict{})
	}
	return json.Marshal(verdict{IsAuthorized: true, Context: p.Texts()})
}
