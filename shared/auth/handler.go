package auth

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/flovyn/promises/shared/promise"
)

// Identify says who calls, by the Authorization header, "Bearer <key or
// token>", or by the token of a callback URL. It takes no API key from a URL,
// because URLs end up in logs. The principal is promise.Anonymous if the
// credential is invalid; the error is Authorize's.
func (a *Authorizer) Identify(ctx context.Context, source string, inHeader bool) (promise.Principal, error) {
	nobody := promise.Principal{By: promise.By{Kind: promise.KindAnonymous}}
	credential := source
	if inHeader {
		scheme, rest, ok := strings.Cut(source, " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return nobody, nil
		}
		credential = strings.TrimLeft(rest, " ")
	} else if LooksLikeAPIKey(credential) {
		return nobody, nil
	}
	p, ok, err := a.Authorize(ctx, credential)
	if err != nil || !ok {
		return nobody, err
	}
	return p, nil
}

// request is what is read of an API Gateway REQUEST authorizer's event, payload
// format 2.0.
type request struct {
	IdentitySource []string `json:"identitySource"`
}

type verdict struct {
	IsAuthorized bool              `json:"isAuthorized"`
	Context      map[string]string `json:"context,omitempty"`
}

// Invoke answers API Gateway's REQUEST authorizers, payload format 2.0, with
// their simple response. It implements lambda.Handler. Its answer follows from
// the identity source alone, because API Gateway uses it again for every route
// of the authorizer.
//
// Where a credential cannot be looked up it lets the call through as
// promise.KindUnverified: an error would be the caller's 500. The operation then
// asks again, or answers 503.
func (a *Authorizer) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	var r request
	if err := json.Unmarshal(payload, &r); err != nil || len(r.IdentitySource) != 1 {
		return json.Marshal(verdict{})
	}
	p, err := a.Identify(ctx, r.IdentitySource[0], true)
	switch {
	case err != nil:
		a.log.ErrorContext(ctx, "credential not looked up", "cause", err.Error())
		return json.Marshal(verdict{IsAuthorized: true, Context: map[string]string{"kind": string(promise.KindUnverified)}})
	case p.Kind == promise.KindAnonymous:
		return json.Marshal(verdict{})
	}
	return json.Marshal(verdict{IsAuthorized: true, Context: p.Texts()})
}
