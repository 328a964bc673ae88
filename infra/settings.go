package main

import (
	"errors"
	"fmt"
	"net/mail"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/routes"
)

// settings are what is asked for with -c name=value, or in cdk.json.
type settings struct {
	// Stage (stage; default dev) names the stack, promises-{stage}, and every
	// function in it. The stage production is sized and guarded as such; all
	// others are for trying things out, and can be deleted whole.
	Stage string

	// Aurora (database=aurora) takes Aurora Serverless v2 instead of RDS for
	// PostgreSQL (database=postgres, the default).
	Aurora bool

	// Domain (domain) is the host name under which the HTTP API is reached, such
	// as promises.example.com, instead of API Gateway's own.
	Domain string

	// AlarmEmail (alarmEmail) is told when an alarm goes off and when it is over.
	AlarmEmail string

	// RetentionDays (retentionDays; default 90) is RETENTION_DAYS.
	RetentionDays int

	// Snapshot (snapshot) is the name or ARN of a snapshot that the database is
	// made from; of a cluster with Aurora. Another one, or none, makes it anew.
	Snapshot string

	// CORSOrigins (corsOrigins, separated by commas) are the web origins whose
	// pages may call the HTTP API. None may by default.
	CORSOrigins []string
}

const production = "production"

func (s settings) production() bool { return s.Stage == production }

// stackName is also the prefix of the functions' names.
func (s settings) stackName() string { return "promises-" + s.Stage }

var (
	stagePattern    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,19}$`)
	snapshotPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9:-]{0,254}$`)
	domainPattern   = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$`)
)

// readSettings judges everything that was asked for. A name that it does not
// know is refused: it may be a known one, misspelt.
func readSettings(context map[string]any) (settings, error) {
	s := settings{Stage: "dev", RetentionDays: 90}
	var errs []error
	refuse := func(name, must string) { errs = append(errs, fmt.Errorf("-c %s=%v: %s", name, context[name], must)) }
	for name, value := range context {
		text, isText := value.(string)
		switch name {
		case "stage":
			if s.Stage = text; !stagePattern.MatchString(text) {
				refuse(name, "1 to 20 lower-case letters, digits and hyphens, a letter first")
			}
		case "database":
			if s.Aurora = text == "aurora"; !s.Aurora && text != "postgres" {
				refuse(name, "postgres or aurora")
			}
		case "domain":
			if s.Domain = text; !domainPattern.MatchString(text) || len(text) > 253 {
				refuse(name, "a host name in lower case, such as promises.example.com")
			}
		case "alarmEmail":
			address, err := mail.ParseAddress(text)
			if s.AlarmEmail = text; err != nil || address.Address != text {
				refuse(name, "an e-mail address and nothing else")
			}
		case "retentionDays":
			days, err := strconv.Atoi(fmt.Sprint(value)) // cdk.json may have a number
			if s.RetentionDays = days; err != nil || days < 0 || days > config.MaxRetentionDays {
				refuse(name, fmt.Sprintf("a number from 0 (keep everything) to %d", config.MaxRetentionDays))
			}
		case "snapshot":
			if s.Snapshot = text; !snapshotPattern.MatchString(text) {
				refuse(name, "the name or the ARN of a snapshot")
			}
		case "corsOrigins":
			s.CORSOrigins = strings.Split(text, ",")
			if slices.ContainsFunc(s.CORSOrigins, func(o string) bool { return !routes.IsOrigin(o) }) {
				refuse(name, "origins such as https://app.example.com, separated by commas")
			}
		default:
			if isText && !strings.ContainsAny(name, ":/") { // the CDK's own have those, or are no text
				refuse(name, "there is no such setting: stage, database, domain, alarmEmail, retentionDays, snapshot or corsOrigins")
			}
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return s, errors.Join(errs...)
}
