package app

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/secret"
	"github.com/flovyn/promises/shared/telemetry"
	"github.com/flovyn/promises/shared/webhook"
)

// The purposes of the texts that the database stores for sources: source_secret.sealed
// with the source's id as the row, and receipt_body.sealed with the body's id. A body
// never changes, so its version is always 1.
const (
	sourceSecretPurpose = "source_secret.sealed"
	bodyPurpose         = "receipt_body.sealed"
	bodyVersion         = 1
)

// A Program is the compiled definition of a source: see rule.Program. A function that
// links the language of rules is twice as large, so only its main package chooses it.
type Program interface {
	Judge(context.Context, promise.WebhookInput) (promise.Judged, error)
}

// RunReceiveWebhook serves gateway.ReceiveWebhook until Lambda ends the process. It starts
// as Run does. compile is rule.Compile.
func RunReceiveWebhook[P Program](compile func(promise.SourceDefinition) (P, error)) {
	start(func(s service) lambda.Handler {
		h := s.handler(gateway.ReceiveWebhook)
		h.Webhooks = newWebhooks(s, compile)
		h.Metrics = telemetry.NewTally(s.metrics, time.Minute)
		return h
	})
}

// loadSourceURLKey returns the key of SOURCE_URL_KEY. A secret in Secrets Manager is read
// when it is first needed. A key in the configuration itself is checked at once.
func loadSourceURLKey(conf config.Config, log *slog.Logger) (*auth.Cached[webhook.URLKey], error) {
	text := conf.SourceURLKey
	read := parsed(text, webhook.ParseURLKey)
	switch {
	case text == "":
		read = func(context.Context) (webhook.URLKey, error) {
			return webhook.URLKey{}, errors.New("SOURCE_URL_KEY is not set")
		}
	case !secret.IsARN(text):
		key, err := webhook.ParseURLKey(text)
		if err != nil {
			return nil, fmt.Errorf("SOURCE_URL_KEY: %w", err)
		}
		read = auth.Always(key)
	}
	return auth.NewCached("source URL key", read, time.Now, log), nil
}

// A webhooks implements gateway.Webhooks.
type webhooks struct {
	service
	compile func(promise.SourceDefinition) (Program, error)
	sources *webhook.Cache[cachedSource]

	mu       sync.Mutex
	programs map[uuid.UUID]versioned // by the source's id
	touched  map[touch]time.Time     // when this process last recorded it
	refused  map[refusal]unlogged
}

// A cachedSource is a source that verifies requests. The zero cachedSource refuses every
// request.
type cachedSource struct {
	source  promise.Source
	secrets []string
	reason  webhook.Refusal // why the source refuses every request; empty: it does not
}

// A versioned is the program of one version of a source.
type versioned struct {
	version int
	Program
}

// maxPrograms bounds the compiled definitions that a process keeps.
const maxPrograms = webhook.CacheSize

// The reasons of refusals beside those of package webhook.
const (
	wrongChecksum  webhook.Refusal = "the checksum in the URL is wrong"
	noSource       webhook.Refusal = "there is no such source"
	sourceDisabled webhook.Refusal = "the source is disabled"
)

// NewWebhooks returns what receive-webhook and manage-integrations verify and judge by,
// with the keys of a configuration.
func NewWebhooks[P Program](
	conf config.Config, store *repository.Repository, compile func(promise.SourceDefinition) (P, error), log *slog.Logger,
) (gateway.Webhooks, error) {
	s := service{store: store, log: log}
	var err error
	if s.sealing, err = loadSealingKeys(conf, log); err == nil {
		s.urlKey, err = loadSourceURLKey(conf, log)
	}
	return newWebhooks(s, compile), err
}

func newWebhooks[P Program](s service, compile func(promise.SourceDefinition) (P, error)) *webhooks {
	return &webhooks{
		service: s, compile: func(d promise.SourceDefinition) (Program, error) { return compile(d) },
		sources: webhook.NewCache[cachedSource](time.Now), programs: map[uuid.UUID]versioned{}, touched: map[touch]time.Time{},
		refused: map[refusal]unlogged{},
	}
}

// Segment implements gateway.Webhooks.
func (w *webhooks) Segment(ctx context.Context, tenant, name string) (string, error) {
	key, err := w.sourceURLKey(ctx)
	return key.Segment(tenant, name), err
}

func (w *webhooks) sourceURLKey(ctx context.Context) (webhook.URLKey, error) {
	key, err := w.urlKey.Get(ctx)
	if err != nil {
		err = &promise.Error{
			Code: promise.CodeUnavailable, Detail: "The key of the sources' URLs cannot be read at the moment. Repeat the call.", Cause: err,
		}
	}
	return key, err
}

// Verify implements gateway.Webhooks.
func (w *webhooks) Verify(ctx context.Context, tenant, segment string, r promise.WebhookRequest) (gateway.VerifiedWebhook, error) {
	key, err := w.sourceURLKey(ctx)
	if err != nil {
		return gateway.VerifiedWebhook{}, err
	}
	name, ok := key.Parse(tenant, segment)
	if !ok {
		w.logRefusal(ctx, refusal{reason: wrongChecksum.Error()})
		return gateway.VerifiedWebhook{}, gateway.WebhookRefused(wrongChecksum)
	}
	read := func(ctx context.Context) (cachedSource, error) { return w.readSource(ctx, tenant, name) }
	c, age, err := w.sources.Get(ctx, tenant, name, read)
	if err != nil {
		return gateway.VerifiedWebhook{}, err
	}
	v, reason := c.verify(r, time.Now())
	if reason != nil && age >= webhook.RefreshAge {
		if c, _, err = w.sources.Refresh(ctx, tenant, name, read); err != nil {
			return gateway.VerifiedWebhook{}, err
		}
		v, reason = c.verify(r, time.Now())
	}
	w.touch(ctx, tenant, name, c.source.ID, reason)
	if reason != nil {
		w.logRefusal(ctx, refusal{tenant, name, reason.Error()})
		return gateway.VerifiedWebhook{}, gateway.WebhookRefused(reason)
	}
	return v, nil
}

// Forget implements gateway.Webhooks.
func (w *webhooks) Forget(tenant, name string) { w.sources.Forget(tenant, name) }

// readSource reads a source for the cache. A source that refuses every request costs the
// same work as another one.
func (w *webhooks) readSource(ctx context.Context, tenant, name string) (cachedSource, error) {
	s, sealed, err := w.store.GetSource(ctx, tenant, name)
	var e *promise.Error
	switch {
	case errors.As(err, &e) && e.Code == promise.CodeNotFound:
		return cachedSource{reason: noSource}, nil
	case err != nil:
		return cachedSource{}, err
	case !s.Enabled:
		return cachedSource{reason: sourceDisabled}, nil
	}
	secrets, err := w.openSourceSecrets(ctx, s.ID, sealed)
	return cachedSource{source: s, secrets: secrets}, err
}

// verify verifies a request. Its error is a webhook.Refusal.
func (c cachedSource) verify(r promise.WebhookRequest, now time.Time) (gateway.VerifiedWebhook, error) {
	verifier, secrets := c.source.Verifier, c.secrets
	if c.reason != "" {
		verifier, secrets = webhook.Decoy()
	}
	r.URL = cmp.Or(c.source.URL, r.URL)
	v, err := webhook.Verify(verifier, secrets, r, now)
	if err != nil {
		if c.reason != "" {
			err = c.reason
		}
		return gateway.VerifiedWebhook{}, err
	}
	preset, _ := webhook.Preset(verifier.Preset)
	return gateway.VerifiedWebhook{Source: c.source, Preset: preset, Header: webhook.Visible(verifier, r.Header), Verification: v}, nil
}

// VerifyAs implements gateway.Webhooks.
func (w *webhooks) VerifyAs(
	ctx context.Context, s promise.Source, sealed []promise.SourceSecret, r promise.WebhookRequest,
) (gateway.VerifiedWebhook, error) {
	secrets, err := w.openSourceSecrets(ctx, s.ID, sealed)
	if err != nil {
		return gateway.VerifiedWebhook{}, err
	}
	v, err := cachedSource{source: s, secrets: secrets}.verify(r, time.Now())
	if err != nil {
		preset, _ := webhook.Preset(s.Verifier.Preset)
		v = gateway.VerifiedWebhook{Source: s, Preset: preset, Header: webhook.Visible(s.Verifier, r.Header)}
		err = promise.Fail(promise.CodeUnauthenticated, "The request is refused: "+err.Error()+".")
	}
	return v, err
}

// Judge implements gateway.Webhooks.
func (w *webhooks) Judge(ctx context.Context, s promise.Source, in promise.WebhookInput) ([]promise.Judgment, bool, error) {
	p, err := w.program(s)
	if err != nil {
		w.log.ErrorContext(ctx, "cannot compile a source's rules", "sourceId", s.ID.String(), "cause", err.Error())
		return []promise.Judgment{{Failed: true, Reason: "the source's definition is not valid any more: put the source again"}}, false, nil
	}
	judged, err := p.Judge(ctx, in)
	return judged.Items, judged.Each, err
}

// program returns the compiled definition of a source, which it keeps for the source's
// version. A source without an id is not stored, so its program is not kept.
func (w *webhooks) program(s promise.Source) (Program, error) {
	w.mu.Lock()
	known, ok := w.programs[s.ID]
	w.mu.Unlock()
	if ok && known.version == s.Version {
		return known, nil
	}
	d := s.SourceDefinition
	preset, _ := webhook.Preset(d.Verifier.Preset)
	d.EventID, d.Each = cmp.Or(d.EventID, preset.EventID), cmp.Or(d.Each, preset.Each)
	p, err := w.compile(d)
	if err != nil || s.ID == uuid.Nil {
		return p, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.programs) >= maxPrograms {
		clear(w.programs)
	}
	w.programs[s.ID] = versioned{s.Version, p}
	return p, nil
}

// Handshake implements gateway.Webhooks.
func (w *webhooks) Handshake(kind promise.Handshake, r promise.WebhookRequest, body []byte) (contentType string, answer []byte, ok bool) {
	return webhook.Answer(kind, r, body)
}

// CheckDefinition implements gateway.Webhooks.
func (w *webhooks) CheckDefinition(name string, d *promise.SourceDefinition) error {
	if err := webhook.CheckVerifier(d.Verifier, d.URL); err != nil {
		return err
	}
	preset, _ := webhook.Preset(d.Verifier.Preset)
	d.KeyPrefix = cmp.Or(d.KeyPrefix, preset.KeyPrefix, name+":")
	d.OnRuleError = cmp.Or(d.OnRuleError, promise.RuleErrorRefuse)
	_, err := w.program(promise.Source{SourceDefinition: *d})
	return err
}

// NewSecret implements gateway.Webhooks.
func (w *webhooks) NewSecret(
	ctx context.Context, v promise.SourceVerifier, id uuid.UUID, version int, given *string,
) (text string, sealed []byte, err error) {
	if given != nil {
		text, err = *given, webhook.CheckSecret(v, *given)
	} else if text = webhook.NewSecret(v); text == "" {
		err = &promise.Error{
			Code: promise.CodeMissingField, Field: "secret", Detail: "secret is required: the sender makes it, and shows it beside the URL of the webhook.",
		}
	}
	if err != nil {
		return "", nil, err
	}
	sealed, err = w.seal(ctx, sourceSecretPurpose, id, version, []byte(text))
	return text, sealed, err
}

// FitsSecret implements gateway.Webhooks.
func (w *webhooks) FitsSecret(ctx context.Context, v promise.SourceVerifier, id uuid.UUID, newest promise.SourceSecret) (bool, error) {
	secrets, err := w.openSourceSecrets(ctx, id, []promise.SourceSecret{newest})
	if err != nil {
		return errors.Is(err, seal.ErrRefused), readable(err)
	}
	return webhook.CheckSecret(v, secrets[0]) == nil, nil
}

// SameSecret implements gateway.Webhooks.
func (w *webhooks) SameSecret(ctx context.Context, id uuid.UUID, newest promise.SourceSecret, text string) (bool, error) {
	secrets, err := w.openSourceSecrets(ctx, id, []promise.SourceSecret{newest})
	if err != nil {
		return false, readable(err)
	}
	return subtle.ConstantTimeCompare([]byte(secrets[0]), []byte(text)) == 1, nil
}

// readable returns nil for the error of a secret that no key opens: the source keeps it
// until another takes its place.
func readable(err error) error {
	if errors.Is(err, seal.ErrRefused) {
		return nil
	}
	return err
}

// openSourceSecrets returns the secrets of a source in the same order.
func (s service) openSourceSecrets(ctx context.Context, source uuid.UUID, secrets []promise.SourceSecret) ([]string, error) {
	texts := make([]string, len(secrets))
	for i, one := range secrets {
		text, err := s.open(ctx, sourceSecretPurpose, source, one.Version, one.Sealed)
		if err != nil {
			return nil, unreadable(err, "The source's secret cannot be decrypted at the moment. Repeat the call. If it still fails, rotate the secret, with its version as replaceVersion.",
				fmt.Sprintf("secret %d of source %s", one.Version, source))
		}
		texts[i] = string(text)
	}
	return texts, nil
}

// SealBody implements gateway.Webhooks.
func (w *webhooks) SealBody(ctx context.Context, id uuid.UUID, body []byte) ([]byte, error) {
	return w.seal(ctx, bodyPurpose, id, bodyVersion, body)
}

// OpenBody implements gateway.Webhooks.
func (w *webhooks) OpenBody(ctx context.Context, kept promise.KeptBody) ([]byte, error) {
	body, err := w.open(ctx, bodyPurpose, kept.ID, bodyVersion, kept.Sealed)
	if err != nil {
		err = unreadable(err, "The body cannot be decrypted at the moment. Repeat the call.", "body "+kept.ID.String())
	}
	return body, err
}
