package gateway

import (
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

// A call is one call of either form, after the checks that all operations share.
type call struct {
	tenant     string
	principal  promise.Principal
	domain     string // HTTP form: the host name in the URL
	identifier promise.Identifier
	workflow   promise.Workflow
	delivery   *uuid.UUID // nil: the call names none
	receipt    uuid.UUID
	name       string // of the destination or the source
	parameters parameters
	body       object
	answerBy   time.Time             // see Handler.Timeout
	request    promise.SettleRequest // of a callback URL's body
	malformed  error                 // why a callback URL's body is invalid; nil: it is valid
	posted     posted                // of receive-webhook
	webhook    *webhook              // of receive-webhook, once it is verified
}

// A posted is a request to a source as it was received.
type posted struct {
	segment string // the last part of the URL
	promise.WebhookRequest
	malformed error // why it is no request of API Gateway; nil: it is
}

// A VerifiedWebhook is a request whose sender is known.
type VerifiedWebhook struct {
	Source promise.Source
	Preset promise.SourcePreset
	Header map[string]string // what rules may see: no credentials, no signatures
	promise.Verification
}

// A webhook is a verified request to a source.
type webhook struct {
	VerifiedWebhook
	query    string
	received []byte // the body as it was received
	body     []byte // as JSON
	fault    error  // why the body cannot be read; nil: it can
}

// setDelivery parses the delivery's id. A nil text sets none.
func (c *call) setDelivery(text *string) error {
	if text == nil {
		return nil
	}
	id, err := promise.ParseDeliveryID(*text)
	c.delivery = &id
	return within("deliveryId", err)
}

// setReceipt parses the receipt's id.
func (c *call) setReceipt(text string) (err error) {
	c.receipt, err = promise.ParseReceiptID(text)
	return within("receiptId", err)
}

// parameters holds the parameters of a query, or the direct form's fields of the
// same names. A query's values are all strings (quoted); the direct form's values
// have their JSON types.
type parameters struct {
	object
	quoted bool
}

// queryNumber matches a JSON number without a sign.
var queryNumber = regexp.MustCompile(`^(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$`)

// integer reads a whole number, or returns fallback if it is absent. A query may
// write the number in every form that JSON has, without a sign.
func (p parameters) integer(name string, fallback, low, high int64) (int64, error) {
	o := p.object
	if raw, ok := o.get(name); ok && p.quoted {
		number := rawjson.Unquote(raw)
		whole := queryNumber.MatchString(number)
		if whole {
			_, whole, _ = parseWhole(number)
		}
		if !whole {
			return 0, fieldError(name, promise.CodeInvalidParameter, name+" must be a whole number, without a sign.")
		}
		o = object{{Name: []byte(name), Raw: []byte(number)}}
	}
	n, err := o.optionalInteger(name, low, high)
	if n == nil || err != nil {
		return fallback, err
	}
	return *n, nil
}

func (p parameters) text(name string) (*string, error) {
	if raw, ok := p.get(name); ok && p.quoted {
		s := rawjson.Unquote(raw)
		return &s, nil
	}
	return p.optionalText(name)
}

func (p parameters) flag(name string) (bool, error) {
	raw, ok := p.get(name)
	if !ok || !p.quoted {
		return p.object.flag(name)
	}
	s := rawjson.Unquote(raw)
	if s != "true" && s != "false" {
		return false, fieldError(name, promise.CodeInvalidParameter, name+" must be true or false.")
	}
	return s == "true", nil
}

// checkTenant rejects slugs that Postgres cannot encode, as unknown tenants.
func checkTenant(slug string) error {
	if strings.ContainsRune(slug, 0) || !utf8.ValidString(slug) {
		return promise.ErrNotFound
	}
	return nil
}
