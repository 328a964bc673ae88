package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/webhook/rule"
)

// The secrets of the sample source.
const (
	sourceSecret  = "whsec_c2FtcGxlIHNlY3JldA"
	anotherSecret = "whsec_YW5vdGhlciBzZWNyZXQ"
	thirdSecret   = "whsec_dGhpcmQgc2VjcmV0IQ"
)

// webhooks returns what receive-webhook and manage-integrations verify and judge by. It
// has no store in a service without a database.
func (s *service) webhooks(t testing.TB) gateway.Webhooks {
	t.Helper()
	var store *repository.Repository
	if s.db != nil {
		store = repository.New(s.db.Pool)
	}
	return newWebhooks(t, store, slog.New(slog.NewTextHandler(s.log, nil)))
}

func newWebhooks(t testing.TB, store *repository.Repository, log *slog.Logger) gateway.Webhooks {
	t.Helper()
	w, err := app.NewWebhooks(config.Config{SealingKeys: sealing.Text(), SourceURLKey: strings.Repeat("4a", 32)}, store, rule.Compile, log)
	require.NoError(t, err)
	return w
}

const chargeRules = `[{"when":"body.type == 'charge.succeeded'","key":"'stripe:' + body.data.object.id","then":"resolve"},
	{"when":"body.type == 'charge.failed'","key":"'stripe:' + body.data.object.id","then":"reject","error":"body.data.object.failure_message"}]`

// source puts the source that the sample events name, with more fields.
func (s *service) source(t testing.TB, more string) map[string]any {
	t.Helper()
	return s.integrate(t, `"action":"put-source","name":"stripe","verifier":{"preset":"stripe"},"secret":"`+sourceSecret+`","rules":`+chargeRules+more)
}

// stripeSignature signs a body as Stripe does.
func stripeSignature(secret, body string, at time.Time) string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "." + body))
	return "t=" + stamp + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// webhook posts a signed body to the sample source, through receive-webhook.
func (s *service) webhook(t testing.TB, body string) response {
	t.Helper()
	return s.webhookOf(t, time.Now(), body)
}

// webhookOf posts a body that was signed at a time.
func (s *service) webhookOf(t testing.TB, at time.Time, body string) response {
	t.Helper()
	address := s.integrate(t, `"action":"get-source","name":"stripe"`)["url"].(string)
	event, err := json.Marshal(map[string]any{
		"version": "2.0", "routeKey": "POST /api/tenants/{slug}/webhooks/{source}", "body": body,
		"headers":        map[string]string{"content-type": "application/json", "stripe-signature": stripeSignature(sourceSecret, body, at)},
		"pathParameters": map[string]string{"slug": tenant, "source": address[strings.LastIndex(address, "/")+1:]},
		"requestContext": map[string]any{"http": map[string]string{"method": "POST"}},
	})
	require.NoError(t, err)
	h := s.handler(t, "manage-integrations")
	h.Operation = gateway.ReceiveWebhook
	return respond(t, h, event)
}

// charge returns the body of a webhook about a charge.
func charge(event, kind, id string) string {
	return `{"id":"` + event + `","type":"charge.` + kind + `","data":{"object":{"id":"` + id + `","failure_message":"declined"}}}`
}

func publicKey(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(der)
}

// retiring returns the time at which the older secret in an answer retires.
func retiring(t testing.TB, answer map[string]any) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, answer["secrets"].([]any)[1].(map[string]any)["retiresAt"].(string))
	require.NoError(t, err)
	return at
}

// versions returns the versions in an answer's secrets.
func versions(answer map[string]any) []any {
	list := []any{}
	for _, s := range answer["secrets"].([]any) {
		list = append(list, s.(map[string]any)["version"])
	}
	return list
}

func TestASource(t *testing.T) {
	t.Parallel()
	s := newService(t)
	put := `"action":"put-source","name":"stripe","verifier":{"preset":"stripe"},"rules":` + chargeRules
	made := s.integrate(t, put)
	t.Run("a new source has the defaults, and waits for the sender's secret", func(t *testing.T) {
		require.Regexp(t, `^https://api\.example\.com/api/tenants/demo/webhooks/stripe-[a-z2-7]{16}$`, made["url"])
		require.Equal(t, []any{true, true, []any{}, "stripe:", 3600.0, "refuse", false},
			[]any{made["created"], made["enabled"], made["secrets"], made["keyPrefix"], made["holdSeconds"], made["onRuleError"], made["keepBody"]})
		for _, absent := range []string{"secret", "signedUrl", "eventId", "each", "lastReceivedAt", "lastRefusal"} {
			require.NotContains(t, made, absent)
		}
	})
	given := s.integrate(t, put+`,"secret":"`+sourceSecret+`"`)
	t.Run("the sender's secret is its first", func(t *testing.T) {
		require.Equal(t, []any{false, []any{1.0}}, []any{given["created"], versions(given)})
		require.NotContains(t, given, "secret")
	})
	t.Run("an equal put changes nothing", func(t *testing.T) {
		before := s.snapshot(t)
		for _, equal := range []string{put, put + `,"secret":"` + sourceSecret + `","enabled":true,"holdSeconds":3.6e3,"keepBody":false`} {
			require.Equal(t, given, s.integrate(t, equal))
		}
		require.Equal(t, before, s.snapshot(t))
	})
	t.Run("another secret is the newest, and the former one stays for a while", func(t *testing.T) {
		changed := s.integrate(t, put+`,"secret":"`+anotherSecret+`"`)
		require.Equal(t, []any{2.0, 1.0}, versions(changed))
		require.Contains(t, changed["secrets"].([]any)[1], "retiresAt")
		_, err := s.direct(t, "manage-integrations", `{"tenant":"demo",`+put+`,"secret":"`+thirdSecret+`"}`)
		require.Equal(t, "secret", requireFunctionError(t, "conflict", err)["field"])
	})
	t.Run("enabled alone disables and enables it", func(t *testing.T) {
		require.Equal(t, false, s.integrate(t, `"action":"put-source","name":"stripe","enabled":false`)["enabled"])
		require.Equal(t, false, s.integrate(t, put)["enabled"], "a put without enabled leaves it as it is")
		require.Equal(t, true, s.integrate(t, `"action":"put-source","name":"stripe","enabled":true`)["enabled"])
	})
	t.Run("a put replaces the definition", func(t *testing.T) {
		changed := s.integrate(t, put+`,"holdSeconds":0,"eventId":"body.id","keyPrefix":"stripe:ch_","onRuleError":"accept","keepBody":true`)
		require.Equal(t, []any{0.0, "body.id", "stripe:ch_", "accept", true},
			[]any{changed["holdSeconds"], changed["eventId"], changed["keyPrefix"], changed["onRuleError"], changed["keepBody"]})
		require.NotContains(t, s.integrate(t, put), "eventId")
	})
	t.Run("a secret of the service is shown once", func(t *testing.T) {
		github := `"action":"put-source","name":"github","verifier":{"preset":"github"},"rules":[{"preset":"github.review"}]`
		secret := s.integrate(t, github)["secret"].(string)
		require.Regexp(t, `^[0-9a-f]{64}$`, secret)
		for _, fields := range []string{github, `"action":"get-source","name":"github"`, `"action":"list-sources"`} {
			require.NotContains(t, fmt.Sprint(s.integrate(t, fields)), secret)
		}
		require.Equal(t, []any{1.0}, versions(s.integrate(t, github+`,"secret":"`+secret+`"`)), "the sender's is the same")
		require.NotContains(t, s.log.String(), secret)
	})
	t.Run("another verifier keeps a secret of its form, and needs a new one otherwise", func(t *testing.T) {
		changing := func(preset string) string {
			return `"action":"put-source","name":"changing","verifier":{"preset":"` + preset + `"},"rules":[]`
		}
		s.integrate(t, changing("standard-webhooks")+`,"secret":"whsec_c2VjcmV0IG9mIGEgc291cmNl"`)
		kept := s.integrate(t, changing("stripe"))
		require.Equal(t, []any{1.0}, versions(kept))
		require.NotContains(t, kept, "secret")

		s.integrate(t, `"action":"delete-source","name":"changing"`)
		s.integrate(t, changing("sendgrid")+`,"secret":"`+publicKey(t)+`"`)
		made := s.integrate(t, changing("github"))
		require.Regexp(t, `^[0-9a-f]{64}$`, made["secret"], "a public key is no secret of github's, so the service makes one")
		before := s.snapshot(t)
		require.Equal(t, versions(made), versions(s.integrate(t, changing("github"))))
		require.Equal(t, before, s.snapshot(t), "the same put again")
		_, err := s.direct(t, "manage-integrations", `{"tenant":"demo",`+changing("stripe")+`}`)
		require.Equal(t, "secret", requireFunctionError(t, "missing_field", err)["field"])
		require.Equal(t, before, s.snapshot(t))
		s.integrate(t, `"action":"delete-source","name":"changing"`)

		key := `,"secret":"` + publicKey(t) + `"`
		s.integrate(t, changing("sendgrid")+key)
		before = s.snapshot(t)
		_, err = s.direct(t, "manage-integrations", `{"tenant":"demo",`+changing("github")+key+`}`)
		require.Equal(t, "secret", requireFunctionError(t, "out_of_range", err)["field"], "also if it is the one that the source has")
		require.Equal(t, before, s.snapshot(t))
		s.integrate(t, `"action":"delete-source","name":"changing"`)
	})
	t.Run("another verifier is never refused for the secrets of the former ones", func(t *testing.T) {
		changing := func(preset string) string {
			return `"action":"put-source","name":"changing","verifier":{"preset":"` + preset + `"},"rules":[]`
		}
		key := `,"secret":"` + publicKey(t) + `"`
		s.integrate(t, changing("sendgrid")+key)
		require.Equal(t, []any{2.0, 1.0}, versions(s.integrate(t, changing("github"))))
		back := s.integrate(t, changing("sendgrid")+key)
		require.Equal(t, []any{3.0, 1.0}, versions(back), "the secret of github's ends, because it verifies nothing")
		require.Equal(t, []any{3.0, 1.0}, versions(s.integrate(t, changing("sendgrid")+key)), "the same put again")
		require.Regexp(t, `^[0-9a-f]{64}$`, s.integrate(t, changing("github"))["secret"])
		_, err := s.direct(t, "manage-integrations", `{"tenant":"demo",`+changing("github")+`,"secret":"another secret"}`)
		requireFunctionError(t, "conflict", err) // both may verify, so neither ends unasked
		s.integrate(t, `"action":"delete-source","name":"changing"`)

		s.integrate(t, changing("github"))
		rotated := s.integrate(t, `"action":"rotate-source-secret","name":"changing","overlapSeconds":60`)
		changed := s.integrate(t, changing("sendgrid")+key)
		require.Equal(t, []any{3.0, 1.0}, versions(changed))
		require.WithinDuration(t, retiring(t, rotated), retiring(t, changed), 10*time.Second, "the first secret ends as soon as the rotation wanted")
		s.integrate(t, `"action":"delete-source","name":"changing"`)
	})
	t.Run("the URL that the sender signs stands beside the source's", func(t *testing.T) {
		twilio := s.integrate(t, `"action":"put-source","name":"twilio","verifier":{"preset":"twilio"},"url":"https://hooks.example.com/sms","rules":[]`)
		require.Equal(t, "https://hooks.example.com/sms", twilio["signedUrl"])
		require.Contains(t, twilio["url"], "/webhooks/twilio-")
	})
	t.Run("without a public address, an event's host or nothing begins the URL", func(t *testing.T) {
		h := s.handler(t, "manage-integrations")
		h.PublicURL = ""
		out, err := h.Invoke(t.Context(), []byte(`{"tenant":"demo","action":"get-source","name":"stripe"}`))
		require.NoError(t, err)
		require.Contains(t, string(out), `"url":"/api/tenants/demo/webhooks/stripe-`)
	})
	t.Run("pages", func(t *testing.T) {
		first := s.integrate(t, `"action":"list-sources","limit":2`)
		second := s.integrate(t, `"action":"list-sources","limit":2,"cursor":"`+first["nextCursor"].(string)+`"`)
		var names []any
		for _, one := range append(first["sources"].([]any), second["sources"].([]any)...) {
			names = append(names, one.(map[string]any)["name"])
			require.NotContains(t, one, "secrets")
		}
		require.Equal(t, []any{"github", "stripe", "twilio"}, names)
		require.NotContains(t, second, "nextCursor")
	})
	t.Run("delete", func(t *testing.T) {
		require.Equal(t, true, s.integrate(t, `"action":"delete-source","name":"stripe"`)["deleted"])
		for _, fields := range []string{`"action":"delete-source","name":"stripe"`, `"action":"get-source","name":"stripe"`, `"action":"put-source","name":"stripe","enabled":true`} {
			_, err := s.direct(t, "manage-integrations", `{"tenant":"demo",`+fields+`}`)
			requireFunctionError(t, "not_found", err)
		}
	})
	t.Run("a tenant has at most a hundred", func(t *testing.T) {
		s.db.Exec(t, `INSERT INTO source (id, tenant_id, name, definition) SELECT gen_random_uuid(), t.id, 'n' || n, '{"verifier":{"bearer":{}},"rules":[]}'
			FROM tenant t, generate_series(1, $1) n`, promise.MaxSources-2)
		_, err := s.direct(t, "manage-integrations", `{"tenant":"demo",`+put+`}`)
		require.Equal(t, "sources", requireFunctionError(t, "quota_exceeded", err)["quota"])
	})
	require.NotContains(t, s.log.String(), "whsec_", "the log has no secret")
}

func TestRotateASourcesSecret(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.source(t, "")
	rotate := `"action":"rotate-source-secret","name":"stripe"`
	refuse := func(t *testing.T, fields, code, field string) {
		t.Helper()
		_, err := s.direct(t, "manage-integrations", `{"tenant":"demo",`+rotate+fields+`}`)
		p := requireFunctionError(t, code, err)
		require.Equal(t, field, p["field"])
		require.NotContains(t, p["detail"], "hunter2")
	}
	t.Run("the sender makes the secret", func(t *testing.T) {
		refuse(t, "", "missing_field", "secret")
		refuse(t, `,"secret":"hunter2"`, "out_of_range", "secret")
	})
	t.Run("a rotation to a given secret can be repeated", func(t *testing.T) {
		rotated := s.integrate(t, rotate+`,"secret":"`+anotherSecret+`"`)
		require.Equal(t, []any{2.0, 1.0}, versions(rotated))
		require.NotContains(t, rotated, "secret")
		require.Equal(t, rotated, s.integrate(t, rotate+`,"secret":"`+anotherSecret+`"`))
	})
	t.Run("a third secret needs replaceVersion", func(t *testing.T) {
		refuse(t, `,"secret":"`+thirdSecret+`"`, "conflict", "replaceVersion")
		refuse(t, `,"secret":"`+anotherSecret+`","replaceVersion":1`, "conflict", "secret")
		require.Equal(t, []any{3.0, 1.0}, versions(s.integrate(t, rotate+`,"secret":"`+thirdSecret+`","replaceVersion":2`)))
	})
	t.Run("the service makes a secret and shows it once", func(t *testing.T) {
		first := s.integrate(t, `"action":"put-source","name":"any","verifier":{"bearer":{}},"rules":[]`)["secret"]
		rotated := s.integrate(t, `"action":"rotate-source-secret","name":"any","overlapSeconds":0`)
		require.Regexp(t, `^[0-9a-f]{64}$`, rotated["secret"])
		require.NotEqual(t, first, rotated["secret"])
		require.Equal(t, []any{2.0}, versions(rotated))
	})
	t.Run("two rotations at once", func(t *testing.T) {
		s.integrate(t, `"action":"put-source","name":"two","verifier":{"basic":{"user":"u"}},"rules":[]`)
		made := make([]string, 2)
		var calls sync.WaitGroup
		for i := range made {
			h := s.handler(t, "manage-integrations")
			h.Log = slog.New(slog.DiscardHandler)
			calls.Go(func() {
				out, err := h.Invoke(t.Context(), []byte(`{"tenant":"demo","action":"rotate-source-secret","name":"two"}`))
				if err == nil {
					made[i] = string(out)
				}
			})
		}
		calls.Wait()
		require.NotEqual(t, made[0] == "", made[1] == "", "the one that comes second would end a secret, and is refused")
		require.Equal(t, []any{2.0, 1.0}, versions(s.integrate(t, `"action":"get-source","name":"two"`)))
		var winner struct{ Secret string }
		require.NoError(t, json.Unmarshal([]byte(made[0]+made[1]), &winner))
		_, secrets, err := s.store.GetSource(t.Context(), tenant, "two")
		require.NoError(t, err)
		same, err := s.webhooks(t).SameSecret(t.Context(), s.sourceID(t, "two"), secrets[0], winner.Secret)
		require.NoError(t, err)
		require.True(t, same, "the secret that was shown is the one that is stored")
	})
}

// Whatever the order of concurrent puts and deletions, a shown secret is the one that is stored.
func TestConcurrentPutsOfASource(t *testing.T) {
	t.Parallel()
	s := newService(t)
	const put = `{"tenant":"demo","action":"put-source","name":"github","verifier":{"preset":"github"},"rules":[]}`
	for round := range 10 {
		payloads := []string{put, put, `{"tenant":"demo","action":"delete-source","name":"github"}`}[:2+round%2]
		answers := make([]string, len(payloads))
		var calls sync.WaitGroup
		for i, payload := range payloads {
			h := s.handler(t, "manage-integrations")
			h.Log = slog.New(slog.DiscardHandler)
			calls.Go(func() {
				out, err := h.Invoke(t.Context(), []byte(payload))
				if err != nil && promise.AsError(err).Code != promise.CodeInternal {
					out = nil
				}
				answers[i] = string(out)
			})
		}
		calls.Wait()
		shown := map[string]string{} // by the source's id
		for _, text := range answers[:2] {
			var a struct {
				SourceID, Secret string
				Created          bool
			}
			require.NoError(t, json.Unmarshal([]byte(text), &a), text)
			require.Equal(t, a.Created, a.Secret != "")
			if a.Created {
				require.Empty(t, shown[a.SourceID])
				shown[a.SourceID] = a.Secret
			}
		}
		stored, secrets, err := s.store.GetSource(t.Context(), tenant, "github")
		if err == nil && shown[stored.ID.String()] != "" {
			same, err := s.webhooks(t).SameSecret(t.Context(), stored.ID, secrets[0], shown[stored.ID.String()])
			require.NoError(t, err)
			require.True(t, same)
		}
		s.db.Exec(t, "DELETE FROM source")
	}
}

func TestInvalidSources(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.source(t, "")
	before := s.snapshot(t)
	const valid = `"verifier":{"preset":"stripe"},"rules":[]`
	hmac := func(more string) string { return `"rules":[],"verifier":{"hmac":{` + more + `}}` }
	const whole = `"algorithm":"sha256","header":"x-signature","encoding":"hex","signed":"{body}"`
	one := func(fields string) string {
		return `"verifier":{"preset":"stripe"},"rules":[{"then":"ignore"},{` + fields + `}]`
	}
	for fields, want := range map[string][2]string{
		``:                                                       {"missing_field", "verifier"},
		`"enabled":"no"`:                                         {"wrong_type", "enabled"},
		`"enabled":true,"secret":"x"`:                            {"missing_field", "verifier"},
		`"rules":[]`:                                             {"missing_field", "verifier"},
		`"verifier":{"preset":"stripe"}`:                         {"missing_field", "rules"},
		`"verifier":"stripe","rules":[]`:                         {"wrong_type", "verifier"},
		`"verifier":{},"rules":[]`:                               {"out_of_range", "verifier"},
		`"verifier":null,"rules":[]`:                             {"wrong_type", "verifier"},
		valid + `,"place":1`:                                     {"unknown_field", "place"},
		valid + `,"keepBody":false,"keepBody":true`:              {"duplicate_field", "keepBody"},
		`"rules":[],"verifier":{"preset":"stripes"}`:             {"out_of_range", "verifier.preset"},
		`"rules":[],"verifier":{"preset":""}`:                    {"out_of_range", "verifier.preset"},
		`"rules":[],"verifier":{"preset":7}`:                     {"wrong_type", "verifier.preset"},
		`"rules":[],"verifier":{"preset":"stripe","bearer":{}}`:  {"out_of_range", "verifier"},
		`"rules":[],"verifier":{"preset":"stripe","header":"a"}`: {"unknown_field", "verifier.header"},
		`"rules":[],"verifier":{"preset":"github","toleranceSeconds":5}`:  {"out_of_range", "verifier.toleranceSeconds"},
		`"rules":[],"verifier":{"preset":"stripe","toleranceSeconds":-1}`: {"out_of_range", "verifier.toleranceSeconds"},
		`"rules":[],"verifier":{"bearer":{"user":"a"}}`:                   {"unknown_field", "verifier.bearer.user"},
		`"rules":[],"verifier":{"bearer":true}`:                           {"wrong_type", "verifier.bearer"},
		`"rules":[],"verifier":{"basic":{}}`:                              {"missing_field", "verifier.basic.user"},
		`"rules":[],"verifier":{"basic":{"user":"a:b"}}`:                  {"out_of_range", "verifier.basic.user"},
		hmac(``):                      {"missing_field", "verifier.hmac.algorithm"},
		hmac(whole + `,"header":"x"`): {"duplicate_field", "verifier.hmac.header"},
		hmac(strings.Replace(whole, "x-signature", "X-Signature", 1)): {"out_of_range", "verifier.hmac.header"},
		hmac(whole + `,"toleranceSeconds":"300"`):                     {"wrong_type", "verifier.hmac.toleranceSeconds"},
		valid + `,"secret":"hunter2"`:                                 {"out_of_range", "secret"},
		valid + `,"secret":7`:                                         {"wrong_type", "secret"},
		valid + `,"url":"https://example.com/"`:                       {"out_of_range", "url"},
		valid + `,"keyPrefix":""`:                                     {"out_of_range", "keyPrefix"},
		valid + `,"keyPrefix":"` + strings.Repeat("a", 101) + `"`:     {"out_of_range", "keyPrefix"},
		valid + `,"eventId":"body."`:                                  {"out_of_range", "eventId"},
		valid + `,"each":"7"`:                                         {"out_of_range", "each"},
		valid + `,"holdSeconds":604801`:                               {"out_of_range", "holdSeconds"},
		valid + `,"holdSeconds":0.5`:                                  {"wrong_type", "holdSeconds"},
		valid + `,"onRuleError":"ignore"`:                             {"out_of_range", "onRuleError"},
		valid + `,"keepBody":1`:                                       {"wrong_type", "keepBody"},
		`"verifier":{"preset":"stripe"},"rules":{}`:                   {"wrong_type", "rules"},
		`"verifier":{"preset":"stripe"},"rules":[7]`:                  {"wrong_type", "rules[0]"},
		`"verifier":{"preset":"stripe"},"rules":[` + strings.Repeat(`{"then":"ignore"},`, 100) + `{"then":"ignore"}]`: {"out_of_range", "rules"},
		one(`"if":"true"`):                 {"unknown_field", "rules[1].if"},
		one(`"then":"resolve"`):            {"missing_field", "rules[1].key"},
		one(`"key":"'a'"`):                 {"missing_field", "rules[1].then"},
		one(`"key":"'a'","then":"settle"`): {"out_of_range", "rules[1].then"},
		one(`"key":"'a'","then":"resolve","when":"body.type = 1"`): {"out_of_range", "rules[1].when"},
		one(`"key":"'a'","then":"resolve","when":""`):              {"out_of_range", "rules[1].when"},
		one(`"key":"'a'","then":"resolve","error":"'e'"`):          {"out_of_range", "rules[1].error"},
		one(`"preset":"stripe.charges"`):                           {"out_of_range", "rules[1].preset"},
		one(`"preset":"github.review"`):                            {"out_of_range", "rules[1].preset"},
	} {
		t.Run(caseName(fields, want[0]), func(t *testing.T) {
			payload := strings.Replace(`{"tenant":"demo","action":"put-source","name":"stripe",`+fields+`}`, ",}", "}", 1)
			_, err := s.direct(t, "manage-integrations", payload)
			p := requireFunctionError(t, want[0], err)
			require.Equal(t, want[1], p["field"])
			require.NotContains(t, p["detail"], "hunter2")
		})
	}
	for payload, want := range map[string][2]string{
		`"action":"put-source","name":"Stripe"`:                                                                                  {"invalid_name", "name"},
		`"action":"put-source","name":"` + strings.Repeat("a", 41) + `"`:                                                         {"invalid_name", "name"},
		`"action":"put-source"`:                                                                                                  {"missing_field", "name"},
		`"action":"get-source","name":"nothing"`:                                                                                 {"not_found", ""},
		`"action":"list-sources","cursor":"!"`:                                                                                   {"invalid_parameter", "cursor"},
		`"action":"rotate-source-secret","name":"nothing"`:                                                                       {"not_found", ""},
		`"action":"rotate-source-secret","name":"stripe","replaceVersion":7,"secret":"` + anotherSecret + `"`:                    {"conflict", "replaceVersion"},
		`"action":"test-source","name":"stripe"`:                                                                                 {"missing_field", "body"},
		`"action":"test-source","name":"nothing","body":""`:                                                                      {"not_found", ""},
		`"action":"test-source","name":"stripe","body":"","bodyBase64":""`:                                                       {"duplicate_field", "bodyBase64"},
		`"action":"test-source","name":"stripe","bodyBase64":"a"`:                                                                {"out_of_range", "bodyBase64"},
		`"action":"test-source","name":"stripe","body":{}`:                                                                       {"wrong_type", "body"},
		`"action":"test-source","name":"stripe","body":"","headers":[]`:                                                          {"wrong_type", "headers"},
		`"action":"test-source","name":"stripe","body":"","headers":{"a":1}`:                                                     {"wrong_type", "headers.a"},
		`"action":"test-source","name":"stripe","body":"","headers":{"a":"1","A":"2"}`:                                           {"duplicate_field", "headers.a"},
		`"action":"test-source","name":"stripe","body":"","definition":{"rules":[]}`:                                             {"missing_field", "definition.verifier"},
		`"action":"test-source","name":"stripe","body":"","definition":{"secret":"x"}`:                                           {"unknown_field", "definition.secret"},
		`"action":"test-source","name":"stripe","body":"","definition":{"verifier":{"preset":"stripe"},"rules":[{"then":"do"}]}`: {"out_of_range", "definition.rules[0].then"},
		`"action":"test-source","name":"stripe","headers":{"content-type":"application/json"},"body":"{"`:                        {"malformed_json", "body"},
		`"action":"replay-receipt"`:                                                                                              {"missing_field", "receiptId"},
		`"action":"replay-receipt","receiptId":"x"`:                                                                              {"invalid_uuid", "receiptId"},
		`"action":"replay-receipt","receiptId":"` + promiseID + `"`:                                                              {"not_found", ""},
	} {
		t.Run(caseName(payload, want[0]), func(t *testing.T) {
			_, err := s.direct(t, "manage-integrations", `{"tenant":"demo",`+payload+`}`)
			field, _ := requireFunctionError(t, want[0], err)["field"].(string)
			require.Equal(t, want[1], field)
		})
	}
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
	require.NotContains(t, s.log.String(), "hunter2")
}

func TestTestASource(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t) // its key is stripe:ch_abc123
	s.source(t, "")
	s.integrate(t, `"action":"put-source","name":"slack","verifier":{"preset":"slack"},"rules":[]`)
	s.integrate(t, `"action":"put-source","name":"list","verifier":{"bearer":{}},"each":"body","keyPrefix":"stripe:","rules":[{"when":"item.ok","key":"item.key","then":"resolve","value":"item"}]`)
	try := func(t *testing.T, name, body, more string, headers map[string]string) map[string]any {
		t.Helper()
		if headers == nil {
			headers = map[string]string{}
		}
		h, err := json.Marshal(headers)
		require.NoError(t, err)
		b, err := json.Marshal(body)
		require.NoError(t, err)
		return s.integrate(t, `"action":"test-source","name":"`+name+`","headers":`+string(h)+`,"body":`+string(b)+more)
	}
	item := func(answer map[string]any) map[string]any { return answer["items"].([]any)[0].(map[string]any) }
	good := charge("evt_1", "succeeded", "ch_abc123")
	before := s.snapshot(t)
	t.Run("a verified request", func(t *testing.T) {
		got := try(t, "stripe", good, "", map[string]string{"Stripe-Signature": stripeSignature(sourceSecret, good, time.Now())})
		require.Equal(t, []any{true, false}, []any{got["verified"], got["each"]})
		require.NotContains(t, got, "reason")
		want := map[string]any{
			"event": "id:evt_1", "item": 0.0, "rule": "1", "then": "resolve", "key": idempotencyKey, "outcome": "settled", "promiseId": promiseID,
		}
		require.NoError(t, json.Unmarshal([]byte(`{"value":`+good+`}`), &want))
		require.Equal(t, want, item(got))
	})
	for name, signature := range map[string]string{
		"another secret": stripeSignature(anotherSecret, good, time.Now()), "too old": stripeSignature(sourceSecret, good, time.Now().Add(-time.Hour)), "no signature": "",
	} {
		t.Run("a request that is not verified: "+name, func(t *testing.T) {
			got := try(t, "stripe", good, "", map[string]string{"stripe-signature": signature})
			require.Equal(t, false, got["verified"])
			require.NotEmpty(t, got["reason"])
			require.Equal(t, "settled", item(got)["outcome"])
		})
	}
	for body, want := range map[string][3]any{
		charge("evt_2", "succeeded", "ch_unknown"): {"held", "1", nil},
		charge("evt_2", "failed", "ch_abc123"):     {"settled", "2", "declined"},
		charge("evt_2", "pending", "ch_abc123"):    {"ignored", nil, nil},
		`{"type":"charge.succeeded"}`:              {"rule_failed", "1", nil},
	} {
		t.Run(caseName(body), func(t *testing.T) {
			got := item(try(t, "stripe", body, "", nil))
			require.Equal(t, want[:], []any{got["outcome"], got["rule"], got["error"]})
			require.Equal(t, want[0] == "rule_failed", got["reason"] != nil)
		})
	}
	t.Run("another definition", func(t *testing.T) {
		more := `,"definition":{"verifier":{"preset":"stripe"},"holdSeconds":0,"rules":[{"key":"'stripe:other'","then":"resolve"}]}`
		require.Equal(t, "not_found", item(try(t, "stripe", good, more, nil))["outcome"])
		require.Equal(t, "settled", item(try(t, "stripe", good, "", nil))["outcome"], "the source's own rules are as before")
	})
	t.Run("bytes in gzip", func(t *testing.T) {
		got := s.integrate(t, `"action":"test-source","name":"stripe","bodyBase64":"`+base64.StdEncoding.EncodeToString(gzipped(t, good))+`"`)
		require.Equal(t, "settled", item(got)["outcome"])
	})
	t.Run("a handshake", func(t *testing.T) {
		got := try(t, "slack", `{"type":"url_verification","challenge":"c"}`, "", nil)
		require.Equal(t, []any{"slack", []any{}}, []any{got["handshake"], got["items"]})
	})
	t.Run("items", func(t *testing.T) {
		got := try(t, "list", `[{"ok":true,"key":"stripe:ch_abc123"},{"ok":false},{"ok":true,"key":"elsewhere"},`+strings.Repeat(`{"ok":false},`, 100)+`{}]`, "", nil)
		items := got["items"].([]any)
		require.Equal(t, []any{true, true}, []any{got["each"], got["more"]})
		require.Len(t, items, 100)
		for i, outcome := range []string{"settled", "ignored", "rule_failed", "ignored"} {
			require.Equal(t, outcome, items[i].(map[string]any)["outcome"])
		}
	})
	require.Equal(t, before, s.snapshot(t), "a test writes nothing")
	require.NotContains(t, s.log.String(), "evt_1")
	t.Run("an event that is final is answered as it is", func(t *testing.T) {
		require.Equal(t, 200, s.webhook(t, good).StatusCode)
		got := item(try(t, "stripe", good, "", nil))
		require.Equal(t, []any{"settled", true}, []any{got["outcome"], got["repeated"]})
	})
}

func (s *service) sourceID(t testing.TB, name string) (id [16]byte) {
	t.Helper()
	found, _, err := s.store.GetSource(t.Context(), tenant, name)
	require.NoError(t, err)
	return found.ID
}

// A source whose secret no key opens can be changed, and gets another one.
func TestASourceWithoutItsSealingKey(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.source(t, "")
	lost, err := app.NewWebhooks(
		config.Config{SealingKeys: seal.Generate().Text(), SourceURLKey: strings.Repeat("4a", 32)},
		repository.New(s.db.Pool), rule.Compile, slog.New(slog.NewTextHandler(s.log, nil)),
	)
	require.NoError(t, err)
	call := func(payload string) map[string]any {
		h := s.handler(t, "manage-integrations")
		h.Webhooks = lost
		out, err := h.Invoke(t.Context(), []byte(`{"tenant":"demo","name":"stripe",`+payload+`}`))
		require.NoError(t, err)
		var a map[string]any
		require.NoError(t, json.Unmarshal(out, &a))
		return a
	}
	put := `"action":"put-source","verifier":{"preset":"stripe"},"keepBody":true,"rules":` + chargeRules
	require.Equal(t, []any{1.0}, versions(call(put)))
	require.Equal(t, []any{2.0, 1.0}, versions(call(put+`,"secret":"`+anotherSecret+`"`)))
	require.Equal(t, []any{3.0, 2.0}, versions(call(`"action":"rotate-source-secret","replaceVersion":1,"secret":"`+thirdSecret+`"`)))

	s.db.Exec(t, "DELETE FROM source")
	s.source(t, "")
	require.Equal(t, []any{2.0}, versions(call(`"action":"rotate-source-secret","replaceVersion":1,"secret":"`+anotherSecret+`"`)))
}
