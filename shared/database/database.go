// Package database connects to Postgres: with a password in the URL or, on RDS, with
// an IAM token or a password from Secrets Manager.
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

// PoolSize is the maximal number of connections of one process. A process handles one
// call at a time, and needs a second connection only while it closes a broken one.
const PoolSize = 2

// SweepPoolSize is the PoolSize of a sweep, which does four things at once: it records deadlines, waits for a locked
// workflow execution, deletes, and counts. The deadlines must not wait for the other three.
const SweepPoolSize = 4

// RelayPoolSize is the PoolSize of a relay of deliveries: it claims while its calls record their results.
const RelayPoolSize = 4

// connectTimeout is short enough for a call to answer that the database is
// unavailable.
const connectTimeout = 2 * time.Second

// pingTimeout is short enough for a call to connect again if the pool's open
// connection does not respond.
const pingTimeout = time.Second

// Options hold the address of Postgres and the way to authenticate.
type Options struct {
	// URL is a postgres:// URL or keyword=value pairs. libpq's environment variables
	// supply missing parts.
	URL string

	// IAMAuth authenticates each connection with a new token, which is signed for the
	// host, port and user of URL and the region in AWS_REGION. The credentials come
	// from the environment at that time (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
	// AWS_SESSION_TOKEN).
	IAMAuth bool

	// Secret, if it is not nil, is called for each connection, because RDS rotates
	// passwords. It returns a secret in the format that RDS stores for its master
	// user: JSON with "username", which must be the user of URL, and "password".
	Secret func(context.Context) (string, error)

	// Connections is the maximal size of the pool; zero means PoolSize.
	Connections int

	// QueryExecMode is pgx's mode of sending statements. It must be set.
	QueryExecMode pgx.QueryExecMode
}

// NewPool returns a pool that connects when it is first needed. The pool suits a
// process that may be frozen between two calls: it pings a connection that was idle
// for a second, with a timeout of a second, before it uses it, and closes one that
// was idle for five minutes.
//
// With IAMAuth or Secret, every connection is encrypted and the server's certificate
// is fully verified, regardless of sslmode. The pool trusts the authorities of RDS
// and RDS Proxy, or the ones in URL's sslrootcert. It sends nothing to a server whose
// certificate is invalid or missing. No error contains a password, a token or the
// URL. If a token or a password cannot be obtained, the connection fails with that
// cause, and pgconn.SafeToRetry reports true, because nothing was sent.
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

// ConnConfig returns the configuration of a single connection. Use it soon, because
// the password may be rotated and an IAM token is valid for 15 minutes. The rest is
// as for NewPool.
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

// errURL replaces pgx's error, which may quote the URL and its password.
var errURL = errors.New("DATABASE_URL is neither a postgres:// URL nor valid keyword=value pairs")

// configure applies the options to c. It returns the function to call before each
// connection, or nil.
func (o Options) configure(c *pgx.ConnConfig) (func(context.Context, *pgx.ConnConfig) error, error) {
	c.ConnectTimeout = connectTimeout
	c.DefaultQueryExecMode = o.QueryExecMode
	if !o.IAMAuth && o.Secret == nil {
		return nil, nil
	}
	region := os.Getenv("AWS_REGION")
	switch {
	case o.IAMAuth && o.Secret != nil:
		return nil, errors.New("a password secret and IAM authentication exclude each other; use one")
	case o.IAMAuth && region == "":
		return nil, errors.New("AWS_REGION is not set; IAM tokens are signed for a region")
	case c.User == "":
		return nil, errors.New("DATABASE_URL has no user; add one")
	case strings.HasPrefix(c.Host, "/"):
		return nil, errors.New("DATABASE_URL has the path of a socket as its host, and a socket has no certificate to verify; use a host name")
	}
	roots := c.TLSConfig.Clone()
	for _, other := range c.Fallbacks {
		if other.Host != c.Host || other.Port != c.Port {
			return nil, errors.New("DATABASE_URL has several hosts; use one")
		}
		if roots == nil { // sslmode=allow tries a connection without TLS first
			roots = other.TLSConfig.Clone()
		}
	}
	c.Fallbacks = nil // a fallback may be without TLS
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

// notConnected is an error of BeforeConnect. Its SafeToRetry makes pgconn.SafeToRetry
// report true, because nothing was sent. pgx does not do that itself.
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

// credentials returns the credentials in the environment, where Lambda puts them. The
// SDK's search in other places would double the start time of a function.
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
		return "", fmt.Errorf("read the password: the secret belongs to another user than %q of DATABASE_URL", user)
	}
	return login.Password, nil
}

//go:embed authorities.pem
var authoritiesPEM []byte

// authorities parses the certificates when they are first needed, because that takes
// longer than the rest of a start.
var authorities = sync.OnceValue(func() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authoritiesPEM)
	return pool
})
