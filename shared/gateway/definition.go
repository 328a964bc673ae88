package gateway

import (
	"encoding/json"
	"math"
	"strconv"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

// definitionFields are the fields of a source's definition.
var definitionFields = []string{"verifier", "url", "keyPrefix", "eventId", "each", "rules", "holdSeconds", "onRuleError", "keepBody"}

// readDefinition reads the fields of a source's definition. It checks their types, and
// leaves the rest to Webhooks.CheckDefinition.
func readDefinition(o object) (d promise.SourceDefinition, err error) {
	raw, err := o.required("verifier")
	if err != nil {
		return d, err
	}
	if d.Verifier, err = readVerifier(raw); err != nil {
		return d, within("verifier", err)
	}
	if raw, err = o.required("rules"); err != nil {
		return d, err
	}
	if d.Rules, err = readRules(raw); err != nil {
		return d, err
	}
	if err := o.texts(map[string]*string{"url": &d.URL, "keyPrefix": &d.KeyPrefix, "eventId": &d.EventID, "each": &d.Each}); err != nil {
		return d, err
	}
	d.HoldSeconds = promise.DefaultHoldSeconds
	hold, err := readSeconds(o, "holdSeconds")
	if err != nil {
		return d, err
	}
	if hold != nil {
		d.HoldSeconds = *hold
	}
	onRuleError, err := o.optionalText("onRuleError")
	if err != nil {
		return d, err
	}
	d.OnRuleError = promise.RuleErrorRefuse
	if onRuleError != nil {
		d.OnRuleError = promise.RuleError(*onRuleError)
	}
	if d.OnRuleError != promise.RuleErrorRefuse && d.OnRuleError != promise.RuleErrorAccept {
		return d, fieldError("onRuleError", promise.CodeOutOfRange, "onRuleError must be refuse or accept.")
	}
	d.KeepBody, err = o.flag("keepBody")
	return d, err
}

// texts reads optional texts. It refuses an empty one, which would mean the same as an
// absent one.
func (o object) texts(fields map[string]*string) error {
	for _, f := range o {
		name := string(f.Name)
		to, ok := fields[name]
		if !ok {
			continue
		}
		s, err := text(name, f.Raw)
		if err != nil {
			return err
		}
		if s == "" {
			return fieldError(name, promise.CodeOutOfRange, name+" must not be empty. Leave it out for its default.")
		}
		*to = s
	}
	return nil
}

// readSeconds reads an optional number of seconds.
func readSeconds(o object, name string) (*int, error) {
	n, err := o.optionalInteger(name, 0, math.MaxInt32)
	if n == nil || err != nil {
		return nil, err
	}
	return new(int(*n)), nil
}

// readVerifier reads {"preset", "toleranceSeconds"?}, {"hmac": {...}}, {"bearer": {}} or
// {"basic": {"user"}}.
func readVerifier(raw json.RawMessage) (v promise.SourceVerifier, err error) {
	o, err := parseObject(raw, []string{"preset", "toleranceSeconds", "hmac", "bearer", "basic"})
	if err != nil {
		return v, err
	}
	if err := o.texts(map[string]*string{"preset": &v.Preset}); err != nil {
		return v, err
	}
	if v.ToleranceSeconds, err = readSeconds(o, "toleranceSeconds"); err != nil {
		return v, err
	}
	if raw, ok := o.get("hmac"); ok {
		if v.HMAC, err = readHMAC(raw); err != nil {
			return v, within("hmac", err)
		}
	}
	if raw, ok := o.get("bearer"); ok {
		if _, err := parseObject(raw, nil); err != nil {
			return v, within("bearer", err)
		}
		v.Bearer = &struct{}{}
	}
	if raw, ok := o.get("basic"); ok {
		basic, err := parseObject(raw, []string{"user"})
		if err != nil {
			return v, within("basic", err)
		}
		v.Basic = &promise.BasicUser{}
		if v.Basic.User, err = basic.requiredText("user"); err != nil {
			return v, within("basic", err)
		}
	}
	return v, nil
}

func readHMAC(raw json.RawMessage) (*promise.HMACVerifier, error) {
	o, err := parseObject(raw, []string{"algorithm", "header", "prefix", "encoding", "signed", "timestampHeader", "toleranceSeconds"})
	if err != nil {
		return nil, err
	}
	v := &promise.HMACVerifier{}
	for _, f := range []struct {
		name string
		to   *string
	}{{"algorithm", &v.Algorithm}, {"header", &v.Header}, {"encoding", &v.Encoding}, {"signed", &v.Signed}} {
		if *f.to, err = o.requiredText(f.name); err != nil {
			return nil, err
		}
	}
	if err := o.texts(map[string]*string{"prefix": &v.Prefix, "timestampHeader": &v.TimestampHeader}); err != nil {
		return nil, err
	}
	v.ToleranceSeconds, err = readSeconds(o, "toleranceSeconds")
	return v, err
}

// readRules reads the rules of a source. The list may be empty: then every request is
// ignored.
func readRules(raw json.RawMessage) ([]promise.SourceRule, error) {
	const name = "rules"
	if raw[0] != '[' {
		return nil, fieldError(name, promise.CodeWrongType, "rules must be an array of rules. Send [] to ignore every request.")
	}
	rules := []promise.SourceRule{}
	for text := range rawjson.Elements(raw) {
		if len(rules) == promise.MaxSourceRules {
			return nil, fieldError(name, promise.CodeOutOfRange, "A source may have at most "+strconv.Itoa(promise.MaxSourceRules)+" rules.")
		}
		r, err := readRule(text)
		if err != nil {
			return nil, within(name+"["+strconv.Itoa(len(rules))+"]", err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func readRule(raw json.RawMessage) (r promise.SourceRule, err error) {
	o, err := parseObject(raw, []string{"preset", "when", "key", "then", "value", "error", "holdSeconds"})
	if err != nil {
		return r, err
	}
	err = o.texts(map[string]*string{
		"preset": &r.Preset, "when": &r.When, "key": &r.Key, "then": &r.Then, "value": &r.Value, "error": &r.Error,
	})
	if err != nil {
		return r, err
	}
	r.HoldSeconds, err = readSeconds(o, "holdSeconds")
	return r, err
}
