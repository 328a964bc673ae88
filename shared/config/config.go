// Package config reads every environment variable that the functions know,
// once, at start.
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

// Names lists the variables that Load reads. Whoever starts a function hands
// it these and no others.
var Names = []string{
	"DATABASE_URL", "DB_EXEC_MODE", "DB_IAM_AUTH", "DB_PASSWORD_SECRET", "HTTP_ALIAS", "LOG_LEVEL", "MAX_VALUE_BYTES", "MAX_WAITS", "PUBLIC_URL",
	"RETENTION_DAYS", "SIGNING_KEY", "TOKEN_KEYS",
}

// Config is the functions' whole configuration.
type Config struct {
	// DatabaseURL (DATABASE_URL) says where Postgres is, as a URL or as
	// keyword=value pairs, with whatever libpq's own variables add. It holds a
	// password: it is never logged.
	DatabaseURL string

	// QueryExecMode (DB_EXEC_MODE) is pgx's query mode: cache_statement (the
	// default), cache_describe, describe_exec, exec (the default with DB_IAM_AUTH)
	// or simple_protocol. RDS Proxy pins a connection on named prepared
	// statements: behind it use exec or cache_describe.
	QueryExecMode pgx.QueryExecMode

	// IAMAuth (DB_IAM_AUTH, true or false; false if unset) proves who connects
	// with IAM tokens: see database.Options.
	IAMAuth bool

	// PasswordSecret (DB_PASSWORD_SECRET) is the ARN of the secret in which RDS
	// keeps the password of DatabaseURL's user. It excludes IAMAuth.
	PasswordSecret string

	// HTTPAlias (HTTP_ALIAS) is the alias through which API Gateway invokes the
	// function; "http" if it is not set at all. If it is empty, the function
	// believes every API Gateway event that it is invoked with: for SAM CLI alone,
	// which invokes no aliases.
	HTTPAlias string

	// LogLevel (LOG_LEVEL) is debug, info (the default), warn or error.
	LogLevel slog.Level

	// MaxValueBytes (MAX_VALUE_BYTES) limits a value and an error, counted as
	// the JSON text that was sent; 1 MiB if unset. Its own
	// limit is 2 MiB: Lambda answers with at most 6 MB, and the JSON within
	// the JSON of an answer can double.
	MaxValueBytes int

	// MaxWaits (MAX_WAITS) is how many calls of one tenant may wait at once, over
	// all processes, if the tenant has no limit of its own; 20 if unset.
	MaxWaits int

	// RetentionDays (RETENTION_DAYS) is for how many days a promise is kept
	// after it was settled, with its events; 90 if unset, 0 for ever.
	RetentionDays int

	// SigningKey (SIGNING_KEY) is the private key that signs promise tokens, for
	// auth.ParseSigningKey, or the ARN of a secret in Secrets Manager that holds it.
	// Only create-promise reads it, and migrate makes it. If it is unset, no tokens
	// are made. It is never logged.
	SigningKey string

	// TokenKeys (TOKEN_KEYS) are the HMAC secrets with which earlier releases signed
	// promise tokens, for auth.ParseLegacySecrets, or the ARN of a secret in Secrets Manager
	// that holds them. They verify those tokens and sign none. They are never logged.
	TokenKeys string

	// PublicURL (PUBLIC_URL) is where the HTTP API is reached from outside, for
	// the URLs that carry promise tokens: scheme and host, no slash at the end. If
	// it is unset, a call over HTTP tells the host name.
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

// MaxMaxValueBytes is the most that MAX_VALUE_BYTES may be.
const MaxMaxValueBytes = 2 << 20

var aliasName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// MaxMaxWaits is the most that MAX_WAITS may be.
const MaxMaxWaits = 1000

// MaxRetentionDays is the most that RETENTION_DAYS may be.
const MaxRetentionDays = 36500

// Load reads the environment. Its error names each variable that is missing or
// unusable, and shows no secret.
func Load() (Config, error) {
	c := Config{DatabaseURL: os.Getenv("DATABASE_URL"), HTTPAlias: "http", MaxValueBytes: 1 << 20, MaxWaits: 20, RetentionDays: 90}
	var errs []error
	if c.DatabaseURL == "" {
		errs = append(errs, errors.New("DATABASE_URL is not set"))
	}
	mode, ok := execModes[os.Getenv("DB_EXEC_MODE")]
	if !ok {
		errs = append(errs, fmt.Errorf("DB_EXEC_MODE: %q is no query mode", os.Getenv("DB_EXEC_MODE")))
	}
	c.QueryExecMode = mode
	switch iam := os.Getenv("DB_IAM_AUTH"); iam {
	case "true":
		c.IAMAuth = true
		if os.Getenv("DB_EXEC_MODE") == "" {
			c.QueryExecMode = pgx.QueryExecModeExec
		}
	case "", "false":
	default:
		errs = append(errs, fmt.Errorf("DB_IAM_AUTH: %q is neither true nor false", iam))
	}
	if c.PasswordSecret = os.Getenv("DB_PASSWORD_SECRET"); c.PasswordSecret != "" && c.IAMAuth {
		errs = append(errs, errors.New("DB_PASSWORD_SECRET and DB_IAM_AUTH exclude each other"))
	}
	if s := os.Getenv("LOG_LEVEL"); s != "" {
		if err := c.LogLevel.UnmarshalText([]byte(s)); err != nil {
			errs = append(errs, fmt.Errorf("LOG_LEVEL: %q is not debug, info, warn or error", s))
		}
	}
	if s := os.Getenv("MAX_VALUE_BYTES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > MaxMaxValueBytes {
			errs = append(errs, fmt.Errorf("MAX_VALUE_BYTES: %q is not a number from 1 to %d", s, MaxMaxValueBytes))
		}
		c.MaxValueBytes = n
	}
	if s := os.Getenv("MAX_WAITS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > MaxMaxWaits {
			errs = append(errs, fmt.Errorf("MAX_WAITS: %q is not a number from 0 to %d", s, MaxMaxWaits))
		}
		c.MaxWaits = n
	}
	if s := os.Getenv("RETENTION_DAYS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > MaxRetentionDays {
			errs = append(errs, fmt.Errorf("RETENTION_DAYS: %q is not a number from 0 to %d", s, MaxRetentionDays))
		}
		c.RetentionDays = n
	}
	if s := os.Getenv("PUBLIC_URL"); s != "" {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || s != u.Scheme+"://"+u.Host {
			errs = append(errs, errors.New("PUBLIC_URL is not of the form https://host, without a path"))
		}
		c.PublicURL = s
	}
	if s, ok := os.LookupEnv("HTTP_ALIAS"); ok {
		if s != "" && !aliasName.MatchString(s) {
			errs = append(errs, fmt.Errorf("HTTP_ALIAS: %q is not the name of an alias: letters, digits, - and _", s))
		}
		c.HTTPAlias = s
	}
	c.SigningKey, c.TokenKeys = os.Getenv("SIGNING_KEY"), os.Getenv("TOKEN_KEYS")
	return c, errors.Join(errs...)
}
