package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/auth"
)

// What the runner keeps in a data folder, beside the database. All are
// secrets, readable by their owner only, and written whole.
const (
	signingKeyFile = "signing-key" // as SIGNING_KEY
	tokenKeysFile  = "token-keys"  // as TOKEN_KEYS; kept by earlier releases, and no longer made
	apiKeyFile     = "api-key"     // of the tenant
)

// keyScopes are every scope that a key can have.
var keyScopes = []string{"create", "settle", "read", "manage"}

// keyLife is how long a key is good that is not kept.
const keyLife = 24 * time.Hour

// secrets are the files in a data folder that this process has locked. Where
// there is none (empty), nothing is kept.
type secrets string

// forget removes the files.
func (s secrets) forget() error {
	if s == "" {
		return nil
	}
	for _, name := range []string{signingKeyFile, tokenKeysFile, apiKeyFile} {
		if err := os.Remove(filepath.Join(string(s), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// read is empty where there is no such file, or an empty one.
func (s secrets) read(name string) (string, error) {
	if s == "" {
		return "", nil
	}
	b, err := os.ReadFile(filepath.Join(string(s), name))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

func (s secrets) keep(name, secret string) error {
	if s == "" {
		return nil
	}
	return writeFile(filepath.Join(string(s), name), []byte(secret+"\n"))
}

// signingKey returns the environment's SIGNING_KEY, or else the key that is kept:
// then tokens stay valid from start to start. migrate registers its public half.
func (s secrets) signingKey() (string, error) {
	if given := os.Getenv("SIGNING_KEY"); given != "" {
		return given, nil
	}
	kept, err := s.read(signingKeyFile)
	if err != nil || kept != "" {
		return kept, err
	}
	made := auth.NewSigningKey().Text()
	return made, s.keep(signingKeyFile, made)
}

// tokenKeys returns the environment's TOKEN_KEYS, or else those that an earlier
// release kept.
func (s secrets) tokenKeys() (string, error) {
	if given := os.Getenv("TOKEN_KEYS"); given != "" {
		return given, nil
	}
	return s.read(tokenKeysFile)
}

// apiKey makes the tenant, where it is not there, and returns a key of it: the
// one that is kept, if it is still good and has every scope, or a new one. A
// release that knows fewer scopes may have made the kept key.
func (s secrets) apiKey(ctx context.Context, service *lambda.Service) (string, error) {
	type request map[string]any
	if err := call(ctx, service, "manage-tenants", request{"action": "create-tenant", "slug": tenant}, nil); err != nil {
		return "", err
	}
	kept, err := s.read(apiKeyFile)
	if err != nil {
		return "", err
	}
	if kept != "" {
		if good, err := opens(ctx, service, kept); err != nil || good {
			return kept, err
		}
	}
	create := request{
		"action": "create-key", "tenant": tenant, "name": "local runner", "scopes": keyScopes,
	}
	if s == "" {
		create["expiresAt"] = time.Now().Add(keyLife).UTC().Format(time.RFC3339)
	}
	var made struct {
		Key string `json:"apiKey"`
	}
	if err := call(ctx, service, "manage-tenants", create, &made); err != nil {
		return "", err
	}
	if made.Key == "" {
		return "", errors.New("manage-tenants: it made no key")
	}
	return made.Key, s.keep(apiKeyFile, made.Key)
}

// opens asks the authorizer, as the HTTP API does, whether the key is valid, the
// tenant's, and has every scope.
func opens(ctx context.Context, service *lambda.Service, key string) (bool, error) {
	const path = "/api/tenants/" + tenant + "/promises"
	credential := "Bearer " + key
	var verdict struct {
		IsAuthorized bool
		Context      struct{ Kind, Tenant, Scopes string }
	}
	err := call(ctx, service, "authorize", map[string]any{
		"version":        "2.0",
		"type":           "REQUEST",
		"routeArn":       "arn:aws:execute-api:" + lambda.Region + ":" + lambda.AccountID + ":local/$default/GET" + path,
		"identitySource": []string{credential},
		"routeKey":       "GET /api/tenants/{slug}/promises",
		"rawPath":        path,
		"rawQueryString": "",
		"headers":        map[string]string{"authorization": credential},
		"requestContext": map[string]any{"http": map[string]string{"method": "GET", "path": path}},
		"pathParameters": map[string]string{"slug": tenant},
	}, &verdict)
	switch {
	case err != nil:
		return false, err
	case !verdict.IsAuthorized:
		return false, nil
	case verdict.Context.Kind != "key": // it lets through what it could not look up
		return false, errors.New("authorize: the kept API key cannot be looked up")
	}
	granted := strings.Fields(verdict.Context.Scopes)
	for _, scope := range keyScopes {
		if !slices.Contains(granted, scope) {
			return false, nil
		}
	}
	return verdict.Context.Tenant == tenant, nil
}

// call invokes a function and reads its answer, unless that is nil. A function
// error is an error.
func call(ctx context.Context, service *lambda.Service, function string, request, answer any) error {
	payload, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("%s: %w", function, err)
	}
	result, err := service.Invoke(ctx, function, lambda.Request{Payload: payload})
	if err != nil {
		return fmt.Errorf("%s: %w", function, err)
	}
	if result.ErrorType != "" {
		return fmt.Errorf("%s: %s", function, describe(result.Payload))
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(result.Payload, answer); err != nil {
		return fmt.Errorf("%s: its answer is not what was expected: %w", function, err)
	}
	return nil
}

// describe is a function error in words.
func describe(payload []byte) string {
	var e struct{ ErrorType, ErrorMessage string }
	if err := json.Unmarshal(payload, &e); err != nil {
		return string(payload)
	}
	return e.ErrorType + ": " + e.ErrorMessage
}

// writeFile writes the file whole, readable by its owner only.
func writeFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
