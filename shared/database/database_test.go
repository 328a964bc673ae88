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

// role is a role of the tests' cluster that its users may become.
func role(t *testing.T) (db *dbtest.DB, name string) {
	t.Helper()
	db = dbtest.Bare(t)
	name = "database_test"
	db.Exec(t, "DO $$ BEGIN CREATE ROLE "+name+"; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$")
	return db, name
}

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

// Each connection proves itself anew, and one that was cut is replaced.
func TestIAMAuth(t *testing.T) {
	db, name := role(t)
	proxy := rdstest.Start(t, db.URL, rdstest.Options{})
	proxy.Setenv(t)
	pool, err := database.NewPool(database.Options{URL: proxy.URL(name, ""), IAMAuth: true, QueryExecMode: pgx.QueryExecModeExec})
	require.NoError(t, err)
	defer pool.Close()
	require.Empty(t, proxy.Tokens(), "nothing is connected before it is needed")
	for range 3 {
		var user string
		require.NoError(t, pool.QueryRow(t.Context(), "SELECT current_user").Scan(&user))
		require.Equal(t, name, user)
	}
	require.Len(t, proxy.Tokens(), 1)
	proxy.Cut()
	time.Sleep(1100 * time.Millisecond) // idle for so long, a connection is looked at first
	var one int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT 1").Scan(&one))
	tokens := proxy.Tokens()
	require.Len(t, tokens, 2)
	require.NotEqual(t, tokens[0], tokens[1])
	require.Empty(t, proxy.Refusals())

	c, err := database.ConnConfig(t.Context(), database.Options{URL: proxy.URL(name, ""), IAMAuth: true, QueryExecMode: pgx.QueryExecModeExec})
	require.NoError(t, err)
	conn, err := pgx.ConnectConfig(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))

	t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
	_, err = whoAmI(t.Context(), database.Options{URL: proxy.URL(name, ""), IAMAuth: true})
	require.ErrorContains(t, err, "28P01")
	require.Eventually(t, func() bool { return slices.Contains(proxy.Refusals(), "the token's signature does not match") },
		time.Minute, 10*time.Millisecond, "it notes it after it has said so")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	_, err = whoAmI(t.Context(), database.Options{URL: proxy.URL(name, ""), IAMAuth: true})
	require.ErrorContains(t, err, "AWS_SECRET_ACCESS_KEY")
	require.True(t, pgconn.SafeToRetry(err), "%v", err)
}

// Who is not the one that was meant gets no token.
func TestNoTokenForStrangers(t *testing.T) {
	db, name := role(t)
	good := rdstest.Start(t, db.URL, rdstest.Options{})
	other := rdstest.Start(t, db.URL, rdstest.Options{})
	elsewhere := rdstest.Start(t, db.URL, rdstest.Options{Hosts: []string{"db.example.com"}})
	plain := rdstest.Start(t, db.URL, rdstest.Options{Plain: true})
	good.Setenv(t)
	for what, c := range map[string]struct {
		proxy     *rdstest.Proxy
		more, err string
	}{
		"another authority":       {good, "&sslrootcert=" + other.CAFile, "unknown authority"},
		"another name":            {elsewhere, "", "db.example.com"},
		"no TLS":                  {plain, "", "tls"},
		"no TLS, where it is let": {plain, "&sslmode=disable", "tls"},
		"sslmode=require":         {elsewhere, "&sslmode=require", "db.example.com"},
		"the authorities of AWS":  {good, "&sslrootcert=", "unknown authority"},
	} {
		_, err := whoAmI(t.Context(), database.Options{URL: c.proxy.URL(name, c.more), IAMAuth: true})
		require.ErrorContains(t, err, c.err, what)
		require.Empty(t, c.proxy.Tokens(), what)
		require.NotContains(t, c.proxy.Refusals(), "without TLS", "%s: it went on in the open", what)
	}
}

func TestSecret(t *testing.T) {
	db, name := role(t)
	proxy := rdstest.Start(t, db.URL, rdstest.Options{Password: "of today"})
	text, failure := "", error(nil)
	o := database.Options{URL: proxy.URL(name, ""), Secret: func(context.Context) (string, error) { return text, failure }}
	text = `{"username":"` + name + `","password":"of today"}`
	user, err := whoAmI(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, name, user)

	for _, c := range []struct{ text, err string }{
		{`{"username":"` + name + `","password":"of yesterday"}`, "28P01"},
		{`{"username":"another","password":"of today"}`, "another user"},
		{`{"username":"` + name + `"}`, "not JSON with"},
		{"of today", "not JSON with"},
	} {
		text = c.text
		_, err := whoAmI(t.Context(), o)
		require.ErrorContains(t, err, c.err)
		require.Equal(t, c.err != "28P01", pgconn.SafeToRetry(err), "whether it can have been heard: %v", err)
		require.NotContains(t, err.Error(), "of today")
		require.NotContains(t, err.Error(), "of yesterday")
	}
	failure = errors.New("away")
	_, err = whoAmI(t.Context(), o)
	require.ErrorIs(t, err, failure)
	require.True(t, pgconn.SafeToRetry(err), "%v", err)
	_, err = database.ConnConfig(t.Context(), o)
	require.ErrorIs(t, err, failure)
}

func TestRefusedOptions(t *testing.T) {
	secret := func(context.Context) (string, error) { return "", nil }
	t.Setenv("AWS_REGION", "eu-central-1")
	for _, c := range []struct {
		o   database.Options
		err string
	}{
		{database.Options{URL: "postgres://u:hunter2@h:x/d"}, "neither a postgres:// URL"},
		{database.Options{URL: "postgres://u:hunter2@[::1/x"}, "neither a postgres:// URL"},
		{database.Options{URL: "postgres://u:hunter2%@h/x"}, "neither a postgres:// URL"},
		{database.Options{URL: "postgres://u:hunter2@h/x?sslmode=perhaps"}, "neither a postgres:// URL"},
		{database.Options{URL: "user=u password=hunter2 port=none"}, "neither a postgres:// URL"},
		{database.Options{URL: "password='hunter2"}, "neither a postgres:// URL"},
		{database.Options{URL: "postgres://u@h/d", IAMAuth: true, Secret: secret}, "exclude each other"},
		{database.Options{URL: "postgres://u@a,b/d", IAMAuth: true}, "several hosts"},
		{database.Options{URL: "postgres://u@a:1,a:2/d", Secret: secret}, "several hosts"},
		{database.Options{URL: "host=/tmp user=u", IAMAuth: true}, "socket"},
	} {
		_, err := database.NewPool(c.o)
		require.ErrorContains(t, err, c.err)
		require.NotContains(t, err.Error(), "hunter2")
		_, err = database.ConnConfig(t.Context(), c.o)
		require.ErrorContains(t, err, c.err)
	}
	t.Setenv("AWS_REGION", "")
	_, err := database.NewPool(database.Options{URL: "postgres://u@h/d", IAMAuth: true})
	require.ErrorContains(t, err, "AWS_REGION")
}

// What is trusted is what it says it is: authorities of RDS, three for each region, and of ACM; each signed by itself, and
// good for years.
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
