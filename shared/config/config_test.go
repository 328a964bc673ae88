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

// set sets the variables of the pairs, and all others that Load reads to "".
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

func load(t *testing.T, pairs ...string) config.Config {
	t.Helper()
	set(t, pairs...)
	c, err := config.Load()
	require.NoError(t, err)
	return c
}

func TestLoad(t *testing.T) {
	t.Run("defaults", func(t *testing.T) {
		require.Equal(t, config.Config{
			DatabaseURL: "postgres://h/d", QueryExecMode: pgx.QueryExecModeCacheStatement, LogLevel: slog.LevelInfo,
			MaxValueBytes: 1 << 20, MaxSends: 32, MaxWaits: 20, RetentionDays: 90,
		}, load(t, "DATABASE_URL=postgres://h/d"))
	})
	t.Run("HTTP_ALIAS is http if it is not set", func(t *testing.T) {
		set(t, "DATABASE_URL=d")
		require.NoError(t, os.Unsetenv("HTTP_ALIAS"))
		c, err := config.Load()
		require.NoError(t, err)
		require.Equal(t, "http", c.HTTPAlias, "only an explicit empty value trusts every event")
	})
	t.Run("every number, name and level", func(t *testing.T) {
		require.Equal(t, config.Config{
			DatabaseURL: "d", QueryExecMode: pgx.QueryExecModeExec, LogLevel: slog.LevelDebug, MaxValueBytes: 2 << 20,
			RetentionDays: 36500, HTTPAlias: "http", MaxSends: 7,
		}, load(t, "DATABASE_URL=d", "DB_EXEC_MODE=exec", "LOG_LEVEL=debug", "MAX_VALUE_BYTES=2097152", "RETENTION_DAYS=36500", "HTTP_ALIAS=http", "MAX_WAITS=0", "MAX_SENDS=7"))
	})
	t.Run("DELIVER_TO_LOOPBACK", func(t *testing.T) {
		require.True(t, load(t, "DATABASE_URL=d", "DELIVER_TO_LOOPBACK=true").DeliverToLoopback)
		require.False(t, load(t, "DATABASE_URL=d", "DELIVER_TO_LOOPBACK=false").DeliverToLoopback)
		set(t, "DATABASE_URL=d", "DELIVER_TO_LOOPBACK=yes")
		_, err := config.Load()
		require.ErrorContains(t, err, "DELIVER_TO_LOOPBACK")
	})
	t.Run("IAM authentication", func(t *testing.T) {
		c := load(t, "DATABASE_URL=d", "DB_IAM_AUTH=true")
		require.True(t, c.IAMAuth)
		require.Equal(t, pgx.QueryExecModeExec, c.QueryExecMode, "RDS Proxy pins a connection that uses named statements")
	})
	t.Run("IAM authentication with a query mode", func(t *testing.T) {
		c := load(t, "DATABASE_URL=d", "DB_IAM_AUTH=true", "DB_EXEC_MODE=cache_describe")
		require.Equal(t, pgx.QueryExecModeCacheDescribe, c.QueryExecMode)
	})
	t.Run("password secret", func(t *testing.T) {
		c := load(t, "DATABASE_URL=d", "DB_IAM_AUTH=false", "DB_PASSWORD_SECRET=arn:x")
		require.False(t, c.IAMAuth)
		require.Equal(t, "arn:x", c.PasswordSecret)
	})
	t.Run("retention for ever", func(t *testing.T) {
		require.Zero(t, load(t, "DATABASE_URL=d", "RETENTION_DAYS=0").RetentionDays)
	})
	t.Run("public URL and keys", func(t *testing.T) {
		c := load(t, "DATABASE_URL=d", "PUBLIC_URL=http://127.0.0.1:3000", "SIGNING_KEY=s", "TOKEN_KEYS=k:s")
		require.Equal(t, "http://127.0.0.1:3000", c.PublicURL)
		require.Equal(t, "s", c.SigningKey)
		require.Equal(t, "k:s", c.TokenKeys)
	})
}

func TestLoadNamesEachFault(t *testing.T) {
	t.Run("all at once", func(t *testing.T) {
		set(t, "DB_EXEC_MODE=fast", "DB_IAM_AUTH=yes", "LOG_LEVEL=loud", "MAX_VALUE_BYTES=2097153", "RETENTION_DAYS=36501", "PUBLIC_URL=api.example.com",
			"SIGNING_KEY=secret", "SOURCE_URL_KEY=secret", "TOKEN_KEYS=secret", "HTTP_ALIAS=a:b", "MAX_WAITS=1001",
			"MAX_SENDS=101", "DELIVER_TO_LOOPBACK=yes", "SEALING_KEYS=secret", "SEND_FUNCTION=f")
		_, err := config.Load()
		for _, name := range config.Names {
			switch name {
			case "SIGNING_KEY", "SOURCE_URL_KEY", "TOKEN_KEYS", "SEALING_KEYS", "DB_PASSWORD_SECRET", "SEND_FUNCTION": // checked where they are used
			default:
				require.ErrorContains(t, err, name)
			}
		}
		require.NotContains(t, err.Error(), "secret")
	})
	t.Run("IAM authentication with a password secret", func(t *testing.T) {
		set(t, "DATABASE_URL=d", "DB_IAM_AUTH=true", "DB_PASSWORD_SECRET=arn:x")
		_, err := config.Load()
		require.ErrorContains(t, err, "exclude each other")
	})
	for name, values := range map[string][]string{
		"PUBLIC_URL":      {"https://", "ftp://a", "https://a/", "https://a/b", "https://a?b", "https://u@a", "//a", "a b"},
		"MAX_VALUE_BYTES": {"0", "-1", "1e3", "x"},
		"MAX_SENDS":       {"0", "1.5", "x"},
		"MAX_WAITS":       {"-1", "1.5", "x"},
		"RETENTION_DAYS":  {"-1", "1.5", "90d", " 1"},
	} {
		for _, value := range values {
			t.Run(name+"="+value, func(t *testing.T) {
				set(t, "DATABASE_URL=d", name+"="+value)
				_, err := config.Load()
				require.ErrorContains(t, err, name)
			})
		}
	}
}

// The infrastructure and the local runner pass only the variables in Names, so Load must read no others.
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
