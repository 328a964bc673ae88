package auth_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/promise"
)

// The owner keeps the API key. The database stores only its hash.
func ExampleNewAPIKey() {
	key := auth.NewAPIKey()
	stored := auth.HashAPIKey(key)

	fmt.Println(auth.CheckAPIKey(key), auth.SameHash(stored, auth.HashAPIKey(key)))
	fmt.Println(auth.CheckAPIKey(key[:len(key)-1]), "for a truncated key")
	// Output:
	// true true
	// false for a truncated key
}

// A token authorizes its holder to settle one promise, until it expires.
func ExampleSigningKey_Sign() {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	key := auth.NewSigningKey()
	signed, err := key.Sign(auth.Token{
		ID:        uuid.New(),
		Tenant:    "acme",
		PromiseID: uuid.MustParse("7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11"),
		Verbs:     []promise.Verb{promise.VerbResolve},
		ExpiresAt: now.Add(time.Hour),
	}, now)
	if err != nil {
		fmt.Println(err)
		return
	}

	keys, err := auth.ParsePublicKeys([]promise.SigningKey{key.Public()})
	if err != nil {
		fmt.Println(err)
		return
	}
	token, err := keys.Verify(signed, now)
	fmt.Println(token.Tenant, token.PromiseID, token.Verbs, err)

	_, err = keys.Verify(signed, now.Add(time.Hour))
	fmt.Println(errors.Is(err, auth.ErrTokenRefused))
	// Output:
	// acme 7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11 [resolve] <nil>
	// true
}
