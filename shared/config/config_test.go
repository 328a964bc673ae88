package config_test

import (
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/config"
)

func set(t *testing.T, pairs ...string) {
	t.Helper()
	for _, name := range config.Names {
		t.Setenv(name, "")
	}
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
}

func TestLoad(t *testing.T) {
	set(t, "DATABASE_URL=postgres://h/d")
	c, err := config.Load()
	require.NoError(t, err)
	require.Equal(t, config.Config{
		DatabaseURL: "postgres://h/d", QueryExecMode: pgx.QueryExecModeCacheStatement, LogLevel: slog.LevelInfo,
		MaxValueBytes: 1 << 20, MaxWaits: 20, RetentionDays: 90,
	}, c)
	require.NoError(t, os.Unsetenv("HTTP_ALIAS"))
	c, err = config.Load()
	require.NoError(t, err)
	require.Equal(t, "http", c.HTTPAlias, "a starter that forgets it opens nothing")

	set(t, "DATABASE_URL=d", "DB_EXEC_MODE=exec", "LOG_LEVEL=debug", "MAX_VALUE_BYTES=2097152", "RETENTION_DAYS=36500", "HTTP_ALIAS=http", "MAX_WAITS=0")
	c, err = config.Load()
	require.NoError(t, err)
	require.Equal(t, config.Config{
		DatabaseURL: "d", QueryExecMode: pgx.QueryExecModeExec, LogLevel: slog.LevelDebug, MaxValueBytes: 2 << 20,
		RetentionDays: 36500, HTTPAlias: "http",
	}, c)

	set(t, "DATABASE_URL=d", "DB_IAM_AUTH=true")
	c, err = config.Load()
	require.NoError(t, err)
	require.True(t, c.IAMAuth)
	require.Equal(t, pgx.QueryExecModeExec, c.QueryExecMode, "RDS Proxy pins a connection on named statements")
	set(t, "DATABASE_URL=d", "DB_IAM_AUTH=true", "DB_EXEC_MODE=cache_describe")
	c, err = config.Load()
	require.NoError(t, err)
	require.Equal(t, pgx.QueryExecModeCacheDescribe, c.QueryExecMode)
	set(t, "DATABASE_URL=d", "DB_IAM_AUTH=false", "DB_PASSWORD_SECRET=arn:x")
	c, err = config.Load()
	require.NoError(t, err)
	require.False(t, c.IAMAuth)
	require.Equal(t, "arn:x", c.PasswordSecret)
	set(t, "DATABASE_URL=d", "DB_IAM_AUTH=true", "DB_PASSWORD_SECRET=arn:x")
	_, err = config.Load()
	require.ErrorContains(t, err, "exclude each other")

	set(t, "DATABASE_URL=d", "RETENTION_DAYS=0", "PUBLIC_URL=http://127.0.0.1:3000", "SIGNING_KEY=s", "TOKEN_KEYS=k:s")
	c, err = config.Load()
	require.NoError(t, err)
	require.Zero(t, c.RetentionDays)
	require.Equal(t, "http://127.0.0.1:3000", c.PublicURL)
	require.Equal(t, "s", c.SigningKey)
	require.Equal(t, "k:s", c.TokenKeys)
}

func TestLoadNamesEachFault(t *testing.T) {
	set(t, "DB_EXEC_MODE=fast", "DB_IAM_AUTH=yes", "LOG_LEVEL=loud", "MAX_VALUE_BYTES=2097153", "RETENTION_DAYS=36501", "PUBLIC_URL=api.example.com",
		"SIGNING_KEY=secret", "TOKEN_KEYS=secret", "HTTP_ALIAS=a:b", "MAX_WAITS=1001")
	_, err := config.Load()
	for _, name := range config.Names {
		if name != "SIGNING_KEY" && name != "TOKEN_KEYS" && name != "DB_PASSWORD_SECRET" { // which shared/auth and Secrets Manager judge
			require.ErrorContains(t, err, name)
		}
	}
	require.NotContains(t, err.Error(), "secret")
	for _, u := range []string{"https://", "ftp://a", "https://a/", "https://a/b", "https://a?b", "https://u@a", "//a", "a b"} {
		set(t, "DATABASE_URL=d", "PUBLIC_URL="+u)
		_, err := config.Load()
		require.ErrorContains(t, err, "PUBLIC_URL", u)
	}
	for _, n := range []string{"0", "-1", "1e3", "x"} {
		set(t, "DATABASE_URL=d", "MAX_VALUE_BYTES="+n)
		_, err := config.Load()
		require.Error(t, err)
	}
	for _, n := range []string{"-1", "1.5", "x"} {
		set(t, "DATABASE_URL=d", "MAX_WAITS="+n)
		_, err := config.Load()
		require.ErrorContains(t, err, "MAX_WAITS")
	}
	for _, n := range []string{"-1", "1.5", "90d", " 1"} {
		set(t, "DATABASE_URL=d", "RETENTION_DAYS="+n)
		_, err := config.Load()
		require.ErrorContains(t, err, "RETENTION_DAYS")
	}
}

// Names is what starters of functions go by: Load must read nothing else.
func TestNamesAreAllThatIsRead(t *testing.T) {
	text, err := os.ReadFile("config.go")
	require.NoError(t, err)
	for part := range strings.SplitSeq(string(text), "os.Getenv(\"") {
		name, _, ok := strings.Cut(part, `")`)
		if ok && strings.ToUpper(name) == name {
			require.Contains(t, config.Names, name)
		}
	}
}
