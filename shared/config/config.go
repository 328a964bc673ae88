// Package config reads the functions' environment variables, once, at start.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// Names lists the environment variables that Load reads. The infrastructure and the
// local runner pass these to a function and no others. The infrastructure never sets
// DELIVER_TO_LOOPBACK.
var Names = []string{
	"DATABASE_URL", "DB_EXEC_MODE", "DB_IAM_AUTH", "DB_PASSWORD_SECRET", "DELIVER_TO_LOOPBACK", "HTTP_ALIAS", "LOG_LEVEL", "MAX_SENDS",
	"MAX_VALUE_BYTES", "MAX_WAITS", "PUBLIC_URL", "RETENTION_DAYS", "SEALING_KEYS", "SEND_FUNCTION", "SIGNING_KEY", "SOURCE_URL_KEY", "TOKEN_KEYS",
}

// A Config is the configuration of a function.
type Config struct {
	// DatabaseURL (DATABASE_URL) is the address of Postgres, as a URL or as
	// keyword=value pairs. libpq's environment variables supply missing parts. It
	// may contain a password, so it is never logged.
	DatabaseURL string

	// QueryExecMode (DB_EXEC_MODE) is pgx's query mode: cache_statement (the
	// default), cache_describe, describe_exec, exec (the default with DB_IAM_AUTH)
	// or simple_protocol. RDS Proxy pins a connection that uses named prepared
	// statements, so use exec or cache_describe behind it.
	QueryExecMode pgx.QueryExecMode

	// IAMAuth (DB_IAM_AUTH, true or false; false if unset) makes connections
	// authenticate with IAM tokens: see database.Options.
	IAMAuth bool

	// PasswordSecret (DB_PASSWORD_SECRET) is the ARN of the secret in which RDS
	// stores the password of DatabaseURL's user. It cannot be combined with IAMAuth.
	PasswordSecret string

	// HTTPAlias (HTTP_ALIAS) is the alias through which API Gateway invokes the
	// function; "http" if the variable is not set. If the variable is set and empty,
	// the function trusts every API Gateway event that it is invoked with. Use that
	// for SAM CLI only, which cannot invoke aliases.
	HTTPAlias string

	// LogLevel (LOG_LEVEL) is debug, info (the default), warn or error.
	LogLevel slog.Level

	// MaxValueBytes (MAX_VALUE_BYTES) limits the JSON text of a value or an error;
	// 1 MiB if unset, and at most 2 MiB. Lambda answers with at most 6 MB, and JSON
	// text can double in size inside the JSON of an answer.
	MaxValueBytes int

	// MaxSends (MAX_SENDS) is the number of calls of send-deliveries that one relay has
	// under way at once; 32 if unset.
	MaxSends int

	// MaxWaits (MAX_WAITS) is the number of calls of one tenant that may wait at
	// once, over all processes, unless the tenant has its own limit; 20 if unset.
	MaxWaits int

	// RetentionDays (RETENTION_DAYS) is the number of days for which a settled
	// promise and its events are kept; 90 if unset; 0 means for ever.
	RetentionDays int

	// SealingKeys (SEALING_KEYS) are the keys that encrypt the secrets of destinations and
	// sources, and the kept bodies of webhooks, for seal.Parse, or the ARN of a secret in
	// Secrets Manager that contains them. They are never logged.
	SealingKeys string

	// DeliverToLoopback (DELIVER_TO_LOOPBACK, true or false; false if unset) permits
	// destinations on this machine, by https and by http, and makes the sender call AWS
	// services only at endpoints that the environment names. It is for the local runner
	// only.
	DeliverToLoopback bool

	// SendFunction (SEND_FUNCTION) is the name or ARN of the function send-deliveries.
	SendFunction string

	// SigningKey (SIGNING_KEY) is the private key that signs promise tokens, for
	// auth.ParseSigningKey, or the ARN of a secret in Secrets Manager that contains
	// it. Only create-promise signs with it, and migrate generates it. If it is unset,
	// no tokens are issued. It is never logged.
	SigningKey string

	// SourceURLKey (SOURCE_URL_KEY) is the key of the checksums in the URLs of sources, for
	// webhook.ParseURLKey, or the ARN of a secret in Secrets Manager that contains it. A
	// new key changes every URL. It is never logged.
	SourceURLKey string

	// TokenKeys (TOKEN_KEYS) are the HMAC secrets with which earlier releases signed
	// promise tokens, for auth.ParseLegacySecrets, or the ARN of a secret in Secrets Manager
	// that contains them. They verify those tokens and sign none. They are never logged.
	TokenKeys string

	// PublicURL (PUBLIC_URL) is the public address of the HTTP API, for the callback
	// URLs: scheme and host, without a slash at the end. If it is unset, the host
	// name comes from the HTTP call.
	PublicURL string
}

var execModes = map[string]pgx.QueryExecMode{
	"":                pgx.QueryExecModeCacheStatement,
	"cache_statement": pgx.QueryExecModeCacheStatement,
	"cache_describe":  pgx.QueryExecModeCacheDescribe,
	"describe_exec":   pgx.QueryExecModeDescribeExec,
	"exec":            pgx.QueryExecModeExec,
	"simple_protocol": pgx.QueryExecModeSimpleProtocol,
}

// MaxMaxValueBytes is the maximum of MAX_VALUE_BYTES.
const MaxMaxValueBytes = 2 << 20

var aliasName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// MaxMaxSends is the maximum of MAX_SENDS.
const MaxMaxSends = 100

// MaxMaxWaits is the maximum of MAX_WAITS.
const MaxMaxWaits = 1000

// MaxRetentionDays is the maximum of RETENTION_DAYS.
const MaxRetentionDays = 36500

// Load reads the environment. Its error names each variable that is missing or
// invalid, and contains no secret.
func Load() (Config, error) {
	var p problems
	c := Config{DatabaseURL: os.Getenv("DATABASE_URL")}
	if c.DatabaseURL == "" {
		p.add("DATABASE_URL is not set; set it to the URL of Postgres")
	}
	c.loadAuthentication(&p)
	sender, err := LoadSender()
	if err != nil {
		p = append(p, err)
	}
	c.LogLevel, c.DeliverToLoopback = sender.LogLevel, sender.DeliverToLoopback
	c.MaxValueBytes = loadNumber(&p, "MAX_VALUE_BYTES", 1<<20, 1, MaxMaxValueBytes)
	c.MaxSends = loadNumber(&p, "MAX_SENDS", 32, 1, MaxMaxSends)
	c.MaxWaits = loadNumber(&p, "MAX_WAITS", 20, 0, MaxMaxWaits)
	c.RetentionDays = loadNumber(&p, "RETENTION_DAYS", 90, 0, MaxRetentionDays)
	c.PublicURL = loadPublicURL(&p)
	c.HTTPAlias = loadAlias(&p)
	c.SealingKeys, c.SendFunction = os.Getenv("SEALING_KEYS"), os.Getenv("SEND_FUNCTION")
	c.SigningKey, c.SourceURLKey, c.TokenKeys = os.Getenv("SIGNING_KEY"), os.Getenv("SOURCE_URL_KEY"), os.Getenv("TOKEN_KEYS")
	return c, errors.Join(p...)
}

// LoadSender reads the variables of send-deliveries, which has no database: the fields
// LogLevel and DeliverToLoopback.
func LoadSender() (Config, error) {
	var p problems
	var c Config
	if s := os.Getenv("LOG_LEVEL"); s != "" && c.LogLevel.UnmarshalText([]byte(s)) != nil {
		p.add("LOG_LEVEL is %q; it must be debug, info, warn or error", s)
	}
	switch s := os.Getenv("DELIVER_TO_LOOPBACK"); s {
	case "true":
		c.DeliverToLoopback = true
	case "", "false":
	default:
		p.add("DELIVER_TO_LOOPBACK is %q; it must be true or false", s)
	}
	return c, errors.Join(p...)
}

// problems lists the variables that are missing or invalid.
type problems []error

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Errorf(format, args...)) }

// loadAuthentication reads how connections authenticate, and the query mode, whose default
// depends on it.
func (c *Config) loadAuthentication(p *problems) {
	text := os.Getenv("DB_EXEC_MODE")
	mode, ok := execModes[text]
	if !ok {
		p.add("DB_EXEC_MODE is %q; it must be cache_statement, cache_describe, describe_exec, exec or simple_protocol", text)
	}
	c.QueryExecMode = mode
	switch iam := os.Getenv("DB_IAM_AUTH"); iam {
	case "true":
		c.IAMAuth = true
		if text == "" {
			c.QueryExecMode = pgx.QueryExecModeExec
		}
	case "", "false":
	default:
		p.add("DB_IAM_AUTH is %q; it must be true or false", iam)
	}
	if c.PasswordSecret = os.Getenv("DB_PASSWORD_SECRET"); c.PasswordSecret != "" && c.IAMAuth {
		p.add("DB_PASSWORD_SECRET and DB_IAM_AUTH exclude each other; set only one")
	}
}

// loadNumber reads a number from least to most.
func loadNumber(p *problems, name string, unset, least, most int) int {
	s := os.Getenv(name)
	if s == "" {
		return unset
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		p.add("%s is %q; it must be a number from %d to %d", name, s, least, most)
	}
	return n
}

func loadPublicURL(p *problems) string {
	s := os.Getenv("PUBLIC_URL")
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || s != u.Scheme+"://"+u.Host {
		p.add("PUBLIC_URL must have the form https://host, without a path")
	}
	return s
}

// loadAlias returns "http" if HTTP_ALIAS is not set. The variable may be set and empty.
func loadAlias(p *problems) string {
	s, ok := os.LookupEnv("HTTP_ALIAS")
	if !ok {
		return "http"
	}
	if s != "" && !aliasName.MatchString(s) {
		p.add("HTTP_ALIAS is %q; it must be the name of an alias: 1 to 128 letters, digits, - and _", s)
	}
	return s
}
