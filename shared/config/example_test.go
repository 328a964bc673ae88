package config_test

import (
	"fmt"
	"os"

	"github.com/flovyn/promises/shared/config"
)

func ExampleLoad() {
	for _, name := range config.Names {
		os.Unsetenv(name)
	}
	os.Setenv("DATABASE_URL", "postgres://promises_app@db.example.com/promises")
	os.Setenv("RETENTION_DAYS", "30")
	defer os.Unsetenv("DATABASE_URL")
	defer os.Unsetenv("RETENTION_DAYS")
	c, err := config.Load()
	fmt.Println(c.RetentionDays, c.MaxWaits, c.HTTPAlias, err)

	os.Setenv("RETENTION_DAYS", "a month")
	_, err = config.Load()
	fmt.Println(err)
	// Output:
	// 30 20 http <nil>
	// RETENTION_DAYS: "a month" must be a number from 0 to 36500
}
