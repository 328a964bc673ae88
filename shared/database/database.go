// Package database opens connections to Postgres, wherever that runs: by a URL
// with a password in it, or on RDS, without one.
package database

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// PoolSize is how many connections one process opens at most. It answers one
// call at a time and needs a second connection only while a broken one is being
// given up.
const PoolSize = 2

// SweepPoolSize is PoolSize for a sweep, which has four things to do at once: it records deadlines, waits for a busy
// workflow execution, deletes, and counts. The deadlines must wait for none of the others.
const SweepPoolSize = 4

// connectTimeout leaves a call time to say that the database is away.
const connectTimeout = 2 * time.Second

// pingTimeout leaves a call time to connect anew, where a connection that it
// finds open has gone silent.
const pingTimeout = time.Second

// Options say where Postgres is and how to prove who connects.
type Options struct {
	// URL is a postgres:// URL or keyword=value pairs. libpq's own variables add to it.
	URL string

	// IAMAuth proves it with a token that is signed for each connection, for the
	// host, port and user of URL, with AWS_REGION and the credentials that the environment
	// has then (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN).
	IAMAuth bool

	// Secret, if it is not nil, is asked for each connection, because RDS
	// changes passwords: for a secret as RDS keeps that of its master user, JSON with
	// "username", which must be the user of URL, and "password".
	Secret func(context.Context) (string, error)

	// Connections bounds a pool; zero: PoolSize.
	Connections int

	// QueryExecMode is how statements are sent; the zero value is none.
	QueryExecMode pgx.QueryExecMode
}

// NewPool makes a pool that connects when it is first needed. It suits a process
// that may be frozen between two calls: a connection that has idled for a second
// is looked at before it is used, for a second at most; one that has idled for
// minutes is closed.
//
// With IAMAuth or Secret, every connection is encrypted and the server's
// certificate is verified in full, whatever sslmode says: against the authorities
// of RDS and RDS Proxy, or those of URL's sslrootcert. Nothing is sent to a server
// that has none. No error holds a password, a token or the URL. Where a token or a
// password is not to be had, whoever needed the connection is told so, and
// pgconn.SafeToRetry says that nothing was sent.
func NewPool(o Options) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, errURL
	}
	c.MaxConns = int32(cmp.Or(o.Connections, PoolSize)) //nolint:gosec // a few
	c.MaxConnIdleTime = 5 * time.Minute
	c.PingTimeout = pingTimeout
	prepare, err := o.configure(c.ConnConfig)
	if err != nil {
		return nil, err
	}
	c.BeforeConnect = prepare
	return pgxpool.NewWithConfig(context.Background(), c)
}

// ConnConfig is for one connection, made soon: its password is that of now, and
// an IAM token is good for 15 minutes. Otherwise it is as NewPool's are.
func ConnConfig(ctx context.Context, o Options) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(o.URL)
	if err != nil {
		return nil, errURL
	}
	prepare, err := o.configure(c)
	if err == nil && prepare != nil {
		err = prepare(ctx, c)
	}
	return c, err
}

// errURL stands for pgx's own words, which may quote the URL, and with it the
// password.
var errURL = errors.New("DATABASE_URL is neither a postgres:// URL nor keyword=value pairs that Postgres knows")

// configure returns what must be done before each connection, or nil.
func (o Options) configure(c *pgx.ConnConfig) (func(context.Context, *pgx.ConnConfig) error, error) {
	c.ConnectTimeout = connectTimeout
	c.DefaultQueryExecMode = o.QueryExecMode
	if !o.IAMAuth && o.Secret == nil {
		return nil, nil
	}
	region := os.Getenv("AWS_REGION")
	switch {
	case o.IAMAuth && o.Secret != nil:
		return nil, errors.New("a password and an IAM token exclude each other")
	case o.IAMAuth && region == "":
		return nil, errors.New("AWS_REGION is not set: an IAM token is signed for a region")
	case c.User == "":
		return nil, errors.New("DATABASE_URL names no user")
	case strings.HasPrefix(c.Host, "/"):
		return nil, errors.New("DATABASE_URL leads to a socket of this machine, where nobody can be verified")
	}
	roots := c.TLSConfig.Clone()
	for _, other := range c.Fallbacks {
		if other.Host != c.Host || other.Port != c.Port {
			return nil, errors.New("DATABASE_URL names several hosts: give one")
		}
		if roots == nil { // sslmode=allow tries without first
			roots = other.TLSConfig.Clone()
		}
	}
	c.Fallbacks = nil // one of them may be to go without TLS
	c.TLSConfig = &tls.Config{ServerName: c.Host, MinVersion: tls.VersionTLS12}
	if roots != nil {
		c.TLSConfig.RootCAs = roots.RootCAs
	}
	return func(ctx context.Context, c *pgx.ConnConfig) (err error) {
		if c.TLSConfig.RootCAs == nil {
			c.TLSConfig.RootCAs = authorities()
		}
		if o.IAMAuth {
			c.Password, err = sign(ctx, c, region)
		} else {
			c.Password, err = o.password(ctx, c.User)
		}
		if err != nil {
			return notConnected{err}
		}
		return nil
	}, nil
}

// notConnected says what pgx does not say of a BeforeConnect that fails: that
// nothing has been sent (see pgconn.SafeToRetry).
type notConnected struct{ error }

func (notConnected) SafeToRetry() bool { return true }

func (e notConnected) Unwrap() error { return e.error }

func sign(ctx context.Context, c *pgx.ConnConfig, region string) (string, error) {
	endpoint := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	token, err := auth.BuildAuthToken(ctx, endpoint, region, c.User, aws.CredentialsProviderFunc(credentials))
	if err != nil {
		return "", fmt.Errorf("sign an IAM token: %w", err)
	}
	return token, nil
}

// credentials are those of the environment, where Lambda puts them. The SDK's
// way to find them elsewhere, too, doubles the time that a function takes to start.
func credentials(context.Context) (aws.Credentials, error) {
	c := aws.Credentials{
		AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
		SessionToken: os.Getenv("AWS_SESSION_TOKEN"), Source: "environment",
	}
	if !c.HasKeys() {
		return c, errors.New("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set")
	}
	return c, nil
}

func (o Options) password(ctx context.Context, user string) (string, error) {
	text, err := o.Secret(ctx)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	var login struct{ Username, Password string }
	if json.Unmarshal([]byte(text), &login) != nil || login.Password == "" {
		return "", errors.New("read the password: the secret is not JSON with a username and a password")
	}
	if login.Username != user {
		return "", fmt.Errorf("read the password: the secret is of another user than DATABASE_URL's %q", user)
	}
	return login.Password, nil
}

//go:embed authorities.pem
var authoritiesPEM []byte

// authorities are read when they are first needed: they take longer than the
// rest of a start.
var authorities = sync.OnceValue(func() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authoritiesPEM)
	return pool
})
