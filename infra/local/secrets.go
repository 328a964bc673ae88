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
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/webhook"
)

// These files in the data folder, beside the database, hold secrets. Only their
// owner can read them, and they are replaced atomically.
const (
	signingKeyFile   = "signing-key"    // the value of SIGNING_KEY
	sealingKeysFile  = "sealing-keys"   // the value of SEALING_KEYS
	sourceURLKeyFile = "source-url-key" // the value of SOURCE_URL_KEY
	tokenKeysFile    = "token-keys"     // the value of TOKEN_KEYS; only earlier releases wrote this file
	apiKeyFile       = "api-key"        // the tenant's API key
)

// keyScopes lists every scope that an API key can have.
var keyScopes = []string{"create", "settle", "read", "manage", "deliver"}

// temporaryKeyLifetime is the lifetime of an API key that is not stored in a file.
const temporaryKeyLifetime = 24 * time.Hour

// secrets is the path of a data folder, locked by this process, with files of
// secrets. If it is empty, nothing is stored.
type secrets string

// remove deletes the files.
func (s secrets) remove() error {
	if s == "" {
		return nil
	}
	for _, name := range []string{signingKeyFile, sealingKeysFile, sourceURLKeyFile, tokenKeysFile, apiKeyFile} {
		if err := os.Remove(filepath.Join(string(s), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// read returns the file's content, or empty if the file does not exist.
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

func (s secrets) write(name, secret string) error {
	if s == "" {
		return nil
	}
	return writeFile(filepath.Join(string(s), name), []byte(secret+"\n"))
}

// signingKey returns SIGNING_KEY from the environment, or else the key from the
// file, which it creates if needed. So tokens stay valid when the runner restarts.
// The function migrate registers the public half.
func (s secrets) signingKey() (string, error) {
	return s.keep("SIGNING_KEY", signingKeyFile, func() string { return auth.NewSigningKey().Text() })
}

// sealingKeys returns SEALING_KEYS from the environment, or else the keys from the
// file, which it creates if needed. Without them the secrets of destinations and sources
// are lost.
func (s secrets) sealingKeys() (string, error) {
	return s.keep("SEALING_KEYS", sealingKeysFile, func() string { return seal.Generate().Text() })
}

// sourceURLKey returns SOURCE_URL_KEY from the environment, or else the key from the
// file, which it creates if needed. So the URLs of sources stay the same.
func (s secrets) sourceURLKey() (string, error) {
	return s.keep("SOURCE_URL_KEY", sourceURLKeyFile, func() string { return webhook.NewURLKey().Text() })
}

// keep returns the variable from the environment, or else the secret from the file. If
// there is no file, it stores a new secret there.
func (s secrets) keep(variable, name string, generate func() string) (string, error) {
	if given := os.Getenv(variable); given != "" {
		return given, nil
	}
	kept, err := s.read(name)
	if err != nil || kept != "" {
		return kept, err
	}
	made := generate()
	return made, s.write(name, made)
}

// tokenKeys returns TOKEN_KEYS from the environment, or else the keys that an
// earlier release stored.
func (s secrets) tokenKeys() (string, error) {
	if given := os.Getenv("TOKEN_KEYS"); given != "" {
		return given, nil
	}
	return s.read(tokenKeysFile)
}

// apiKey creates the tenant if needed and returns an API key of it. It returns the
// stored key if that is still valid and has every scope, and otherwise a new key.
// An earlier release with fewer scopes may have created the stored key.
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
		if valid, err := isUsable(ctx, service, kept); err != nil || valid {
			return kept, err
		}
	}
	create := request{
		"action": "create-key", "tenant": tenant, "name": "local runner", "scopes": keyScopes,
	}
	if s == "" {
		create["expiresAt"] = time.Now().Add(temporaryKeyLifetime).UTC().Format(time.RFC3339)
	}
	var made struct {
		Key string `json:"apiKey"`
	}
	if err := call(ctx, service, "manage-tenants", create, &made); err != nil {
		return "", err
	}
	if made.Key == "" {
		return "", errors.New("manage-tenants: create-key returned no apiKey")
	}
	return made.Key, s.write(apiKeyFile, made.Key)
}

// isUsable asks the authorizer, as the HTTP API does. It reports whether the API key
// is valid, belongs to the tenant and has every scope.
func isUsable(ctx context.Context, service *lambda.Service, key string) (bool, error) {
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
	case verdict.Context.Kind != "key": // the authorizer allows a key that it could not look up
		return false, errors.New("authorize: the stored API key could not be looked up: is the database available?")
	}
	granted := strings.Fields(verdict.Context.Scopes)
	for _, scope := range keyScopes {
		if !slices.Contains(granted, scope) {
			return false, nil
		}
	}
	return verdict.Context.Tenant == tenant, nil
}

// call invokes a function and decodes its response into answer, unless answer is
// nil. It returns a function error as an error.
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
		return fmt.Errorf("%s: unexpected response: %w", function, err)
	}
	return nil
}

// describe returns a function error as text.
func describe(payload []byte) string {
	var e struct{ ErrorType, ErrorMessage string }
	if err := json.Unmarshal(payload, &e); err != nil {
		return string(payload)
	}
	return e.ErrorType + ": " + e.ErrorMessage
}

// writeFile replaces the file atomically. Only its owner can read it.
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
