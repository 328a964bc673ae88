package main

import (
	"cmp"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/flovyn/promises/infra/build"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/routes"
)

// concurrency bounds the processes of one function, and maxEnvironments those of all
// functions together. So functions with waiting calls, or with deliveries to receivers
// that hang, leave room for the other functions. In each of the former, MAX_WAITS
// bounds one tenant's waits, so that other tenants can wait too. A process opens at
// most database.PoolSize connections, and Postgres accepts 200; send-deliveries, with
// up to 32 processes, opens none.
const (
	concurrency     = 32
	maxEnvironments = 128
)

// lambdaEndpoint is the variable with the URL of the Lambda Invoke API.
const lambdaEndpoint = "AWS_ENDPOINT_URL_LAMBDA"

// recipients lists the functions that get a setting, for the settings that not all
// functions get.
var recipients = map[string][]string{
	"SEALING_KEYS":   routes.Sealing,
	"SEND_FUNCTION":  routes.Sending,
	"SIGNING_KEY":    routes.Signing,
	"SOURCE_URL_KEY": routes.Addressing,
	lambdaEndpoint:   routes.Sending,
}

// outsideSettings lists the settings that the functions without a database get.
var outsideSettings = []string{"DELIVER_TO_LOOPBACK", "LOG_LEVEL"}

// awsServices lists the AWS services to which deliveries go, by their names in
// AWS_ENDPOINT_URL_<service>. STS assumes the roles of destinations.
var awsServices = []string{"EVENTBRIDGE", "LAMBDA", "SESV2", "SFN", "SNS", "SQS", "STS"}

// functions returns the functions of the routes table. Each gets the runner's own
// settings, and the other settings from this process's environment, as far as it gets
// them on AWS.
func functions(binaries string, own map[string]string) []lambda.Function {
	own = maps.Clone(own)
	own["HTTP_ALIAS"] = routes.HTTPAlias
	own["SEND_FUNCTION"] = "send-deliveries"
	list := make([]lambda.Function, len(routes.Functions))
	for i, f := range routes.Functions {
		list[i] = lambda.Function{
			Name:        f.Name,
			Path:        build.Binary(binaries, f.Name),
			Timeout:     f.Timeout,
			MemoryMB:    f.MemoryMB,
			Concurrency: concurrency,
			Env:         environment(f.Name, own),
		}
		if slices.Contains(routes.Outside, f.Name) {
			list[i].Env = append(list[i].Env, endpoints()...)
		}
	}
	return list
}

// environment returns the settings of a function as KEY=value.
func environment(function string, own map[string]string) (env []string) {
	isOutside := slices.Contains(routes.Outside, function)
	for _, name := range append(slices.Clone(config.Names), lambdaEndpoint) {
		to, limited := recipients[name]
		if limited && !slices.Contains(to, function) || isOutside && !slices.Contains(outsideSettings, name) {
			continue
		}
		value, ok := own[name]
		if !ok {
			value, ok = os.LookupEnv(name)
		}
		if ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// endpoints returns the variables of a function that sends deliveries: the endpoints
// that this process's environment names in place of AWS. If there is one, it also
// returns the region and the credentials of the environment.
func endpoints() (env []string) {
	for _, service := range append([]string{""}, awsServices...) {
		name := strings.TrimSuffix("AWS_ENDPOINT_URL_"+service, "_")
		if url := os.Getenv(name); url != "" {
			env = append(env, name+"="+url)
		}
	}
	if env == nil {
		return nil
	}
	if region := cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")); region != "" {
		env = append(env, "AWS_REGION="+region)
	}
	if os.Getenv("AWS_ACCESS_KEY_ID") == "" {
		return env
	}
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
		env = append(env, name+"="+os.Getenv(name)) // an empty one too: the three belong together
	}
	return env
}
