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

// settings holds the values given with -c name=value or in cdk.json.
type settings struct {
	// Stage (stage; default dev) names the stack, promises-{stage}, and its functions.
	// It also decides whether the stage is guarded.
	Stage string

	// Large (size=large) selects the size for production load: a larger database in two
	// zones, reserved concurrency, higher throttles. By default guarded stages are large
	// and the others small (size=small).
	Large bool

	// Zones (zones, separated by commas) are the availability zones of the VPC, at
	// least two. By default CloudFormation takes the account's first two.
	Zones []string

	// Aurora (database=aurora) selects Aurora Serverless v2 instead of RDS for PostgreSQL
	// (database=postgres, the default).
	Aurora bool

	// Domain (domain) is the host name of the HTTP API, such as promises.example.com. It
	// replaces API Gateway's own host name.
	Domain string

	// AlarmEmail (alarmEmail) is the address that gets a mail when an alarm goes off and
	// when it ends.
	AlarmEmail string

	// RetentionDays (retentionDays; default 90) is the functions' RETENTION_DAYS.
	RetentionDays int

	// Snapshot (snapshot) is the name or ARN of the snapshot that the database is restored
	// from; with Aurora, of a cluster snapshot. If it changes or is removed,
	// CloudFormation replaces the database.
	Snapshot string

	// CORSOrigins (corsOrigins, separated by commas) are the web origins whose pages may
	// call the HTTP API. By default there are none.
	CORSOrigins []string

	// StateMachines (stateMachines, separated by commas) has the ARNs of the state
	// machines whose tasks send-deliveries may complete. DurableFunctions
	// (durableFunctions) has the ARNs of the durable functions whose callbacks it may
	// complete. Destinations (destinations) has the ARNs of the queues, topics, event
	// buses, functions, roles, SES identities and KMS keys that it may use. By default it
	// may use none. sendRights has the forms of the ARNs.
	StateMachines, DurableFunctions, Destinations []string
}

// guarded reports whether the stage protects its data: against deletion, and with the
// longest backups that RDS allows. All stages are guarded, except dev and stages whose
// names begin with dev- or test-.
func (s settings) guarded() bool {
	return s.Stage != "dev" && !strings.HasPrefix(s.Stage, "dev-") && !strings.HasPrefix(s.Stage, "test-")
}

// stackName returns the name of the stack, which is also the prefix of the functions' names.
func (s settings) stackName() string { return "promises-" + s.Stage }

var (
	stagePattern    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,19}$`)
	snapshotPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9:-]{0,254}$`)
	zonePattern     = regexp.MustCompile(`^([a-z]{2}(?:-[a-z]+)+-[0-9])[a-z]$`)
	domainPattern   = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$`)
)

// readSettings checks every setting. It rejects an unknown name, because that may be a
// misspelt setting.
func readSettings(context map[string]any) (settings, error) {
	s := settings{Stage: "dev", RetentionDays: 90}
	var errs []error
	for name, value := range context {
		if fault := s.set(name, value); fault != "" {
			errs = append(errs, fmt.Errorf("-c %s=%v: %s", name, value, fault))
		}
	}
	s.Large = context["size"] == "large" || context["size"] == nil && s.guarded()
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return s, errors.Join(errs...)
}

// set sets one setting. It returns the fault of an invalid value or name, or "".
func (s *settings) set(name string, value any) (fault string) {
	text, isText := value.(string)
	switch name {
	case "stage":
		if s.Stage = text; !stagePattern.MatchString(text) {
			return "must be 1 to 20 lower-case letters, digits and hyphens, and begin with a letter"
		}
	case "size":
		if text != "small" && text != "large" {
			return "must be small or large"
		}
	case "zones":
		if s.Zones = strings.Split(text, ","); !areZones(s.Zones) {
			return "must be 2 to 6 different availability zones of one region, separated by commas, such as us-east-1a,us-east-1b"
		}
	case "database":
		if s.Aurora = text == "aurora"; !s.Aurora && text != "postgres" {
			return "must be postgres or aurora"
		}
	case "domain":
		if s.Domain = text; !domainPattern.MatchString(text) || len(text) > 253 {
			return "must be a host name in lower case, such as promises.example.com"
		}
	case "alarmEmail":
		address, err := mail.ParseAddress(text)
		if s.AlarmEmail = text; err != nil || address.Address != text {
			return "must be an e-mail address without a display name, such as ops@example.com"
		}
	case "retentionDays":
		days, err := strconv.Atoi(fmt.Sprint(value)) // cdk.json may have a number
		if s.RetentionDays = days; err != nil || days < 0 || days > config.MaxRetentionDays {
			return fmt.Sprintf("must be a whole number from 0 (keep everything) to %d", config.MaxRetentionDays)
		}
	case "snapshot":
		if s.Snapshot = text; !snapshotPattern.MatchString(text) {
			return "must be the name or the ARN of a snapshot"
		}
	case "corsOrigins":
		s.CORSOrigins = strings.Split(text, ",")
		if slices.ContainsFunc(s.CORSOrigins, func(o string) bool { return !routes.IsOrigin(o) }) {
			return "must be origins such as https://app.example.com, separated by commas"
		}
	case "stateMachines", "durableFunctions", "destinations":
		arns := strings.Split(text, ",")
		*s.arns(name) = arns
		return checkRights(name, arns)
	default:
		if isText && !strings.ContainsAny(name, ":/") { // the CDK's own settings contain : or /, or are not text
			return "there is no such setting; use stage, size, database, zones, domain, alarmEmail, retentionDays, snapshot, corsOrigins, stateMachines, durableFunctions or destinations"
		}
	}
	return ""
}

// arns returns the field of a setting of sendRights.
func (s *settings) arns(name string) *[]string {
	switch name {
	case "stateMachines":
		return &s.StateMachines
	case "durableFunctions":
		return &s.DurableFunctions
	default:
		return &s.Destinations
	}
}

// areZones reports whether zones are two to six different zones of one region.
func areZones(zones []string) bool {
	seen := map[string]bool{}
	for _, zone := range zones {
		parts := zonePattern.FindStringSubmatch(zone)
		if parts == nil || seen[zone] || !strings.HasPrefix(zones[0], parts[1]) {
			return false
		}
		seen[zone] = true
	}
	return len(zones) >= 2 && len(zones) <= 6
}
