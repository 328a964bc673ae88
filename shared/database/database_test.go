package database_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/dbtest/rdstest"
)

// role returns a database and the name of a role that its users can become.
func role(t *testing.T) (db *dbtest.DB, name string) {
	t.Helper()
	db = dbtest.Bare(t)
	name = "database_test"
	db.Exec(t, "DO $$ BEGIN CREATE ROLE "+name+"; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$")
	return db, name
}

// whoAmI connects and returns the current user.
func whoAmI(ctx context.Context, o database.Options) (string, error) {
	o.QueryExecMode = pgx.QueryExecModeExec
	pool, err := database.NewPool(o)
	if err != nil {
		return "", err
	}
	defer pool.Close()
	var name string
	err = pool.QueryRow(ctx, "SELECT current_user").Scan(&name)
	return name, err
}

func TestIAMAuth(t *testing.T) {
	db, name := role(t)
	proxy := rdstest.Start(t, db.URL, rdstest.Options{})
	proxy.Setenv(t)
	o := database.Options{URL: proxy.URL(name, ""), IAMAuth: true, QueryExecMode: pgx.QueryExecModeExec}
	t.Run("each connection has a new token, and a cut connection is replaced", func(t *testing.T) {
		pool, err := database.NewPool(o)
		require.NoError(t, err)
		defer pool.Close()
		require.Empty(t, proxy.Tokens(), "the pool connects only when it is needed")
		for range 3 {
			var user string
			require.NoError(t, pool.QueryRow(t.Context(), "SELECT current_user").Scan(&user))
			require.Equal(t, name, user)
		}
		require.Len(t, proxy.Tokens(), 1)
		proxy.Cut()
		time.Sleep(1100 * time.Millisecond) // the pool pings a connection that was idle for so long
		var one int
		require.NoError(t, pool.QueryRow(t.Context(), "SELECT 1").Scan(&one))
		tokens := proxy.Tokens()
		require.Len(t, tokens, 2)
		require.NotEqual(t, tokens[0], tokens[1])
		require.Empty(t, proxy.Refusals())
	})
	t.Run("a single connection", func(t *testing.T) {
		c, err := database.ConnConfig(t.Context(), o)
		require.NoError(t, err)
		conn, err := pgx.ConnectConfig(t.Context(), c)
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	})
	t.Run("refused: signed with another secret", func(t *testing.T) {
		t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
		_, err := whoAmI(t.Context(), o)
		require.ErrorContains(t, err, "28P01")
		require.Eventually(t, func() bool { return slices.Contains(proxy.Refusals(), "the token's signature does not match") },
			time.Minute, 10*time.Millisecond, "the proxy records a refusal after its answer")
	})
	t.Run("no credentials: nothing is sent", func(t *testing.T) {
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		_, err := whoAmI(t.Context(), o)
		require.ErrorContains(t, err, "AWS_SECRET_ACCESS_KEY")
		require.True(t, pgconn.SafeToRetry(err), "%v", err)
	})
}

// A server without the right certificate receives no token.
func TestNoTokenForStrangers(t *testing.T) {
	db, name := role(t)
	trusted := rdstest.Start(t, db.URL, rdstest.Options{})
	other := rdstest.Start(t, db.URL, rdstest.Options{})
	elsewhere := rdstest.Start(t, db.URL, rdstest.Options{Hosts: []string{"db.example.com"}})
	plain := rdstest.Start(t, db.URL, rdstest.Options{Plain: true})
	trusted.Setenv(t)
	for what, c := range map[string]struct {
		proxy     *rdstest.Proxy
		more, err string
	}{
		"another authority":                {trusted, "&sslrootcert=" + other.CAFile, "unknown authority"},
		"another name":                     {elsewhere, "", "db.example.com"},
		"no TLS":                           {plain, "", "tls"},
		"no TLS, allowed by sslmode":       {plain, "&sslmode=disable", "tls"},
		"another name, allowed by sslmode": {elsewhere, "&sslmode=require", "db.example.com"},
		"no authority of AWS":              {trusted, "&sslrootcert=", "unknown authority"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := whoAmI(t.Context(), database.Options{URL: c.proxy.URL(name, c.more), IAMAuth: true})
			require.ErrorContains(t, err, c.err)
			require.Empty(t, c.proxy.Tokens())
			require.NotContains(t, c.proxy.Refusals(), "without TLS", "the client continued without TLS")
		})
	}
}

func TestSecret(t *testing.T) {
	db, name := role(t)
	proxy := rdstest.Start(t, db.URL, rdstest.Options{Password: "of today"})
	o := func(text string, failure error) database.Options {
		return database.Options{URL: proxy.URL(name, ""), Secret: func(context.Context) (string, error) { return text, failure }}
	}
	t.Run("connects with the password in the secret", func(t *testing.T) {
		user, err := whoAmI(t.Context(), o(`{"username":"`+name+`","password":"of today"}`, nil))
		require.NoError(t, err)
		require.Equal(t, name, user)
	})
	for what, c := range map[string]struct{ text, err string }{
		"an old password": {`{"username":"` + name + `","password":"of yesterday"}`, "28P01"},
		"another user":    {`{"username":"another","password":"of today"}`, "another user"},
		"no password":     {`{"username":"` + name + `"}`, "not JSON with"},
		"not JSON":        {"of today", "not JSON with"},
	} {
		t.Run("refused: "+what, func(t *testing.T) {
			_, err := whoAmI(t.Context(), o(c.text, nil))
			require.ErrorContains(t, err, c.err)
			require.Equal(t, c.err != "28P01", pgconn.SafeToRetry(err), "only the old password was sent: %v", err)
			require.NotContains(t, err.Error(), "of today")
			require.NotContains(t, err.Error(), "of yesterday")
		})
	}
	t.Run("the secret cannot be read", func(t *testing.T) {
		failure := errors.New("unavailable")
		_, err := whoAmI(t.Context(), o("", failure))
		require.ErrorIs(t, err, failure)
		require.True(t, pgconn.SafeToRetry(err), "%v", err)
		_, err = database.ConnConfig(t.Context(), o("", failure))
		require.ErrorIs(t, err, failure)
	})
}

func TestRefusedOptions(t *testing.T) {
	secret := func(context.Context) (string, error) { return "", nil }
	t.Setenv("AWS_REGION", "eu-central-1")
	for what, c := range map[string]struct {
		o   database.Options
		err string
	}{
		"a port that is not a number": {database.Options{URL: "postgres://u:hunter2@h:x/d"}, "neither a postgres:// URL"},
		"a malformed IPv6 address":    {database.Options{URL: "postgres://u:hunter2@[::1/x"}, "neither a postgres:// URL"},
		"a malformed escape":          {database.Options{URL: "postgres://u:hunter2%@h/x"}, "neither a postgres:// URL"},
		"an unknown sslmode":          {database.Options{URL: "postgres://u:hunter2@h/x?sslmode=perhaps"}, "neither a postgres:// URL"},
		"pairs with an invalid port":  {database.Options{URL: "user=u password=hunter2 port=none"}, "neither a postgres:// URL"},
		"pairs with an open quote":    {database.Options{URL: "password='hunter2"}, "neither a postgres:// URL"},
		"IAM and a secret":            {database.Options{URL: "postgres://u@h/d", IAMAuth: true, Secret: secret}, "exclude each other"},
		"IAM with several hosts":      {database.Options{URL: "postgres://u@a,b/d", IAMAuth: true}, "several hosts"},
		"a secret with several ports": {database.Options{URL: "postgres://u@a:1,a:2/d", Secret: secret}, "several hosts"},
		"IAM with a socket":           {database.Options{URL: "host=/tmp user=u", IAMAuth: true}, "socket"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := database.NewPool(c.o)
			require.ErrorContains(t, err, c.err)
			require.NotContains(t, err.Error(), "hunter2")
			_, err = database.ConnConfig(t.Context(), c.o)
			require.ErrorContains(t, err, c.err)
		})
	}
	t.Run("IAM without a region", func(t *testing.T) {
		t.Setenv("AWS_REGION", "")
		_, err := database.NewPool(database.Options{URL: "postgres://u@h/d", IAMAuth: true})
		require.ErrorContains(t, err, "AWS_REGION")
	})
}

// The trusted authorities are three of RDS for each region and four of ACM. Each is signed by itself, and valid for years.
func TestAuthorities(t *testing.T) {
	t.Parallel()
	rest, err := os.ReadFile("authorities.pem")
	require.NoError(t, err)
	known := regexp.MustCompile(`^Amazon (?:Root CA [1-4]|RDS ([a-z]+-[a-z]+-\d) Root CA (?:RSA2048|RSA4096|ECC384) G1)$`)
	seen, regions, roots := map[string]bool{}, map[string]int{}, 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		name := c.Subject.CommonName
		match := known.FindStringSubmatch(name)
		require.NotNil(t, match, name)
		require.False(t, seen[name], name)
		seen[name] = true
		if match[1] == "" {
			roots++
		} else {
			regions[match[1]]++
		}
		require.True(t, c.IsCA, name)
		require.NoError(t, c.CheckSignatureFrom(c), name)
		require.True(t, c.NotBefore.Before(time.Now()), name)
		require.True(t, c.NotAfter.After(time.Now().AddDate(2, 0, 0)), name)
	}
	require.Equal(t, 4, roots)
	require.GreaterOrEqual(t, len(regions), 27)
	for region, n := range regions {
		require.Equal(t, 3, n, region)
	}
}
