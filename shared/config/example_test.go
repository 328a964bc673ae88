package config_test

import (
	"fmt"
	"os"

	"github.com/flovyn/promises/shared/config"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func ExampleLoad() {
	for _, name := range config.Names {
		must(os.Unsetenv(name))
	}
	must(os.Setenv("DATABASE_URL", "postgres://promises_app@db.example.com/promises"))
	must(os.Setenv("RETENTION_DAYS", "30"))
	c, err := config.Load()
	fmt.Println(c.RetentionDays, c.MaxWaits, c.HTTPAlias, err)

	must(os.Setenv("RETENTION_DAYS", "a month"))
	_, err = config.Load()
	fmt.Println(err)
	// Output:
	// 30 20 http <nil>
	// RETENTION_DAYS is "a month"; it must be a number from 0 to 36500
}
