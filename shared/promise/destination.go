package promise

import (
	"net/mail"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// DestinationKinds lists every kind.
var DestinationKinds = []DestinationKind{
	DestinationHTTPS, DestinationSQS, DestinationSNS, DestinationEventBridge, DestinationLambda, DestinationEmail,
	DestinationStepFunctions, DestinationDurableExecution,
}

// MaxDestinations is the largest number of a tenant's destinations.
const MaxDestinations = 100

// MaxTests is the largest number of a tenant's tests of destinations at one time. Each
// holds a process of the function, and one that sends, until the receiver answers.
const MaxTests = 2

// TestsExceeded returns the error of a test beyond MaxTests.
func TestsExceeded() *Error {
	return &Error{
		Code:   CodeQuotaExceeded,
		Detail: "As many tests are running as the tenant may have at one time: " + strconv.Itoa(MaxTests) + ". Repeat the call when one has ended.",
		Quota:  &Quota{Name: "tests", Limit: MaxTests},
	}
}

// maxAddress is the largest length of an address, in bytes.
const maxAddress = 2048

// DestinationsExceeded returns the error of a call that would create more than
// MaxDestinations.
func DestinationsExceeded() *Error {
	return &Error{
		Code:   CodeQuotaExceeded,
		Detail: "The tenant has reached its limit of destinations: " + strconv.Itoa(MaxDestinations) + ". Delete one first.",
		Quota:  &Quota{Name: "destinations", Limit: MaxDestinations},
	}
}

// ErrNoDestination is the error of a call that names a destination that does not exist.
var ErrNoDestination = Fail(CodeNotFound, "There is no such destination. List the tenant's destinations to see their names.")

// A DestinationSecret signs the messages to a destination of the kind
// DestinationHTTPS. The newest version signs, and so does the one before it until
// RetireAt.
type DestinationSecret struct {
	Version   int
	Sealed    []byte // encrypted; see package seal
	CreatedAt time.Time
	RetireAt  *time.Time // nil: the newest
}

// A Rotation asks for a new secret of a destination.
type Rotation struct {
	Overlap time.Duration // the former secret stays active for so long
	Ends    int           // this active version ends at once; 0: none
}

const (
	// DefaultOverlap is the Overlap of a rotation that names none.
	DefaultOverlap = 24 * time.Hour

	// MaxOverlap is the longest Overlap.
	MaxOverlap = 7 * 24 * time.Hour
)

// A SealedText is an encrypted text of the database: a secret of a destination or of a
// source, or a kept body. Purpose, RowID and Version are what it was sealed for; see
// package seal.
type SealedText struct {
	Purpose string // the table and the column, such as source_secret.sealed
	RowID   uuid.UUID
	Version int // 1 for a kept body
	Sealed  []byte
}

// A Reencryption reports one batch of texts that were sealed again.
type Reencryption struct {
	Changed    int
	Unreadable int  // texts in the batch that no key of the ring opens
	Done       bool // the batch had no other texts
}

// CheckDestinationName fails with CodeInvalidName unless name can be a destination's:
// 1 to 63 letters in lower case, digits and hyphens, with no hyphen at either end.
// Two other names are valid, stepFunctions and durableExecution. They name the
// destination of a target that gives its kind alone.
func CheckDestinationName(name string) error {
	if !label.MatchString(name) && !DestinationKind(name).TakesToken() {
		return Fail(CodeInvalidName, "A destination's name must have 1 to 63 lower-case letters, digits and hyphens, and no hyphen at either end.")
	}
	return nil
}

// The forms of AWS's names. Sources:
//   - queue: "Maximum 80 characters; alphanumeric characters, hyphens (-), and
//     underscores (_)", and .fifo at the end, in API_GetQueueUrl and API_CreateQueue of SQS
//   - topic: the same characters, up to 256, in API_CreateTopic of SNS
//   - bus: API_PutEvents of EventBridge, EventBusName
//   - function: API_Invoke of Lambda, FunctionName with a qualifier
//   - role: API_Role of IAM, Arn, Path and RoleName
var (
	regionForm = regexp.MustCompile(`^[a-z]{2,5}(-[a-z]+)+-[0-9]{1,2}$`)
	queueForm  = regexp.MustCompile(`^https://sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/[0-9]{12}/(?:[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo)$`)
	topicForm  = arnForm("sns", `(?:[A-Za-z0-9_-]{1,256}|[A-Za-z0-9_-]{1,251}\.fifo)`)
	busForm    = arnForm("events", `event-bus/[A-Za-z0-9_./-]{1,256}`)
	lambdaForm = arnForm("lambda", `function:[A-Za-z0-9_-]{1,64}(?::(?:\$LATEST|[A-Za-z0-9_-]{1,128}))?`)
	roleForm   = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/(?:[!-~]{1,510}/)?[A-Za-z0-9_+=,.@-]{1,64}$`)
)

func arnForm(service, resource string) *regexp.Regexp {
	return regexp.MustCompile(`^arn:aws[a-z-]*:` + service + `:([a-z0-9-]+):[0-9]{12}:` + resource + `$`)
}

// addressForms has the form of the address of each AWS kind. Its first group is the region.
var addressForms = map[DestinationKind]struct {
	form   *regexp.Regexp
	detail string
}{
	DestinationSQS:         {queueForm, "address must be a queue's URL, such as https://sqs.eu-central-1.amazonaws.com/123456789012/orders."},
	DestinationSNS:         {topicForm, "address must be a topic's ARN, such as arn:aws:sns:eu-central-1:123456789012:orders."},
	DestinationEventBridge: {busForm, "address must be an event bus's ARN, such as arn:aws:events:eu-central-1:123456789012:event-bus/orders."},
	DestinationLambda:      {lambdaForm, "address must be a function's ARN, such as arn:aws:lambda:eu-central-1:123456789012:function:orders."},
}

// CheckDestination fails unless the name, the kind, the address, the sender, the region
// and the role fit each other. The error's field is name, kind, url, address, from,
// region or roleArn. It does not check the URL of DestinationHTTPS beyond its presence.
func CheckDestination(d Destination) error {
	if err := CheckDestinationName(d.Name); err != nil {
		return inField("name", CodeInvalidName, AsError(err).Detail)
	}
	switch {
	case !slices.Contains(DestinationKinds, d.Kind):
		return inField("kind", CodeOutOfRange, "kind must be "+kindNames()+".")
	case DestinationKind(d.Name).TakesToken() && d.Name != string(d.Kind):
		return inField("name", CodeInvalidName, "The name "+d.Name+" is reserved for a destination of the kind "+d.Name+". Send another name.")
	}
	return firstError(d.checkAddress, d.checkFrom, d.checkAWS)
}

// firstError returns the error of the first check that fails.
func firstError(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func kindNames() string {
	names := make([]string, len(DestinationKinds))
	for i, k := range DestinationKinds {
		names[i] = string(k)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

func (d Destination) checkAddress() error {
	if d.Kind == DestinationHTTPS {
		switch {
		case d.Address == "":
			return inField("url", CodeMissingField, "url is required for the kind https.")
		case len(d.Address) > maxAddress:
			return inField("url", CodeOutOfRange, "url may have at most "+strconv.Itoa(maxAddress)+" bytes.")
		}
		return nil
	}
	form, ok := addressForms[d.Kind]
	switch {
	case d.Kind.TakesToken() && d.Address != "":
		return inField("address", CodeOutOfRange, "A destination of the kind "+string(d.Kind)+" has no address: the token in a target names its task. Leave it out.")
	case d.Kind.TakesToken():
		return nil
	case d.Address == "":
		return inField("address", CodeMissingField, "address is required for the kind "+string(d.Kind)+".")
	case ok && !form.form.MatchString(d.Address):
		return inField("address", CodeOutOfRange, form.detail)
	case d.Kind == DestinationEmail && !isMailbox(d.Address):
		return inField("address", CodeOutOfRange, "address must be an email address in ASCII, without a name, such as orders@example.com.")
	}
	return nil
}

// checkFrom checks the sender of an email.
func (d Destination) checkFrom() error {
	switch {
	case d.Kind != DestinationEmail && d.From != "":
		return inField("from", CodeOutOfRange, "Only a destination of the kind email has a sender. Leave it out.")
	case d.Kind != DestinationEmail:
		return nil
	case d.From == "":
		return inField("from", CodeMissingField, "from is required for the kind email: an address that Amazon SES has verified.")
	case !isMailbox(d.From):
		return inField("from", CodeOutOfRange, "from must be an email address in ASCII, without a name, such as promises@example.com.")
	}
	return nil
}

// isMailbox reports whether s is one bare address that SMTP can carry: at most 64 and
// 255 characters around the last @ (RFC 5321, section 4.5.3.1).
func isMailbox(s string) bool {
	a, err := mail.ParseAddress(s)
	if err != nil || a.Address != s || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return false
	}
	at := strings.LastIndexByte(s, '@')
	return at <= 64 && len(s)-at-1 <= 255
}

// checkAWS checks the region and the role.
func (d Destination) checkAWS() error {
	if d.Kind == DestinationHTTPS {
		switch {
		case d.Region != "":
			return inField("region", CodeOutOfRange, "A destination of the kind https has no region. Leave it out.")
		case d.RoleARN != "":
			return inField("roleArn", CodeOutOfRange, "A destination of the kind https has no role. Leave it out.")
		}
		return nil
	}
	if d.Region != "" && (!regionForm.MatchString(d.Region) || len(d.Region) > 32) {
		return inField("region", CodeOutOfRange, "region must be an AWS region, such as eu-central-1.")
	}
	if form, ok := addressForms[d.Kind]; ok {
		switch own := form.form.FindStringSubmatch(d.Address)[1]; {
		case !regionForm.MatchString(own) || len(own) > 32:
			return inField("address", CodeOutOfRange, form.detail)
		case d.Region != "" && d.Region != own:
			return inField("region", CodeOutOfRange, "region must be the one in the address, "+own+", or absent.")
		}
	}
	if d.RoleARN != "" && !roleForm.MatchString(d.RoleARN) {
		return inField("roleArn", CodeOutOfRange, "roleArn must be a role's ARN, such as arn:aws:iam::123456789012:role/notify.")
	}
	return nil
}

func inField(field string, code Code, detail string) *Error {
	return &Error{Code: code, Field: field, Detail: detail}
}
