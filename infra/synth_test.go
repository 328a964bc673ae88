package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/routes"
	"github.com/flovyn/promises/shared/skip"
)

// needNode skips where the CDK cannot run; CI says that it must.
func needNode(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil && os.Getenv("CI_SYNTH") != "" {
		t.Fatal("Node is missing")
	}
	skip.Without(t, "node", "which the CDK runs on: the templates are not looked at")
}

var folder string // of the built app

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "promises-infra-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(folder)
	os.Exit(code)
}

// app is the CDK app as cdk.json runs it.
var app = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "infra")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// synthesize runs the app as the CDK CLI does, with the context of cdk.json and more.
func synthesize(t *testing.T, more map[string]string) (dir, stderr string, err error) {
	t.Helper()
	needNode(t)
	path, err := app()
	require.NoError(t, err)
	text, err := os.ReadFile("../cdk.json")
	require.NoError(t, err)
	var file struct {
		App     string
		Context map[string]any
	}
	require.NoError(t, json.Unmarshal(text, &file))
	require.Equal(t, "go run ./infra", file.App)
	for name := range file.Context {
		require.False(t, strings.HasPrefix(name, "aws:"), "%s: the CDK CLI warns of names that it keeps for itself", name)
	}
	file.Context["aws:cdk:enable-asset-metadata"] = true // which SAM CLI needs: the CDK CLI adds it
	for name, value := range more {
		file.Context[name] = value
	}
	context, err := json.Marshal(file.Context)
	require.NoError(t, err)
	dir = filepath.Join(t.TempDir(), "cdk.out")
	cmd := exec.Command(path)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CDK_OUTDIR="+dir, "CDK_CONTEXT_JSON="+string(context), "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION=20")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return dir, out.String(), err
}

type resource struct {
	Type           string
	Properties     map[string]any
	Metadata       map[string]any
	DependsOn      []string
	DeletionPolicy string

	UpdateReplacePolicy string
}

type template struct {
	stage     string
	guarded   bool
	large     bool
	Resources map[string]resource
	Outputs   map[string]any
	dir       string
	text      string
}

func (tmpl template) of(kind string) map[string]resource {
	found := map[string]resource{}
	for id, r := range tmpl.Resources {
		if r.Type == kind {
			found[id] = r
		}
	}
	return found
}

// function is the resource of one of routes.Functions.
func (tmpl template) function(t *testing.T, name string) (string, resource) {
	t.Helper()
	for id, r := range tmpl.of("AWS::Lambda::Function") {
		if r.Properties["FunctionName"] == "promises-"+tmpl.stage+"-"+name {
			return id, r
		}
	}
	require.Fail(t, "no function "+name)
	return "", resource{}
}

// target is the logical ID that {"Ref": id} or {"Fn::GetAtt": [id, ...]} names, wherever in v.
func target(v any) string {
	switch v := v.(type) {
	case map[string]any:
		if id, ok := v["Ref"].(string); ok && !strings.HasPrefix(id, "AWS::") {
			return id
		}
		if list, ok := v["Fn::GetAtt"].([]any); ok {
			return list[0].(string)
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if id := target(v[name]); id != "" {
				return id
			}
		}
	case []any:
		for _, item := range v {
			if id := target(item); id != "" {
				return id
			}
		}
	}
	return ""
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// Both databases, two stages, with every setting and with none: each is synthesised, breaks no rule, not even one that only
// warns, and is what it should be.
func TestTemplates(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settings       map[string]string
		guarded, large bool
	}{
		"dev": {settings: map[string]string{}},
		"dev, large Aurora": {settings: map[string]string{
			"size": "large", "database": "aurora", "retentionDays": "0", "snapshot": "arn:aws:rds:eu-west-1:123456789012:cluster-snapshot:before",
		}, large: true},
		"production": {settings: map[string]string{
			"stage": "production", "domain": "promises.example.com", "alarmEmail": "a@example.com", "corsOrigins": "https://app.example.com",
		}, guarded: true, large: true},
		"prod, small Aurora": {settings: map[string]string{"stage": "prod", "size": "small", "database": "aurora", "retentionDays": "365"}, guarded: true},
		"another, every else": {settings: map[string]string{
			"stage": "qa-2", "size": "small", "database": "postgres", "alarmEmail": "a@example.com", "snapshot": "before-the-fire",
			"zones": "us-east-1b,us-east-1d,us-east-1f",
		}, guarded: true},
	} {
		settings := c.settings
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, out, err := synthesize(t, settings)
			require.NoError(t, err, out)
			require.NotContains(t, strings.ToLower(out), "deprecated")
			require.NotContains(t, out, "WARNING")
			requireNoViolation(t, dir)
			requireFlags(t, dir)

			tmpl := template{stage: "dev", guarded: c.guarded, large: c.large, dir: dir}
			if settings["stage"] != "" {
				tmpl.stage = settings["stage"]
			}
			b, err := os.ReadFile(filepath.Join(dir, "promises-"+tmpl.stage+".template.json"))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(b, &tmpl))
			tmpl.text = string(b)
			tmpl.requireFunctions(t)
			tmpl.requireRoutes(t, settings)
			tmpl.requireDatabase(t, settings)
			tmpl.requireMigration(t, settings)
			tmpl.requireNetwork(t, settings)
			tmpl.requireFleet(t)
			tmpl.requireSigningKey(t)
			tmpl.requireRest(t, settings)
			tmpl.requireSAM(t)
		})
	}
}

func (tmpl template) requireFunctions(t *testing.T) {
	t.Helper()
	roles := map[string]bool{}
	migrations := slices.Collect(maps.Keys(tmpl.of("Custom::Migration")))
	require.Len(t, migrations, 1)
	for _, f := range routes.Functions {
		_, r := tmpl.function(t, f.Name)
		p := r.Properties
		require.Equal(t, []any{"arm64"}, p["Architectures"])
		require.Equal(t, "provided.al2023", p["Runtime"])
		require.EqualValues(t, f.Timeout.Seconds(), p["Timeout"], f.Name)
		require.EqualValues(t, f.MemoryMB, p["MemorySize"])
		require.Equal(t, map[string]any{"Mode": "Active"}, p["TracingConfig"])
		require.Equal(t, "AWS::Logs::LogGroup", tmpl.Resources[target(p["LoggingConfig"])].Type)
		require.Equal(t, "Text", p["LoggingConfig"].(map[string]any)["LogFormat"], "or the metrics are lost")
		require.NotEmpty(t, p["VpcConfig"])
		if tmpl.large {
			require.EqualValues(t, concurrency[f.Name], p["ReservedConcurrentExecutions"])
		} else {
			require.NotContains(t, p, "ReservedConcurrentExecutions", "a new account has none to reserve")
		}

		role := target(p["Role"])
		require.False(t, roles[role], "a role each")
		roles[role] = true
		require.NotContains(t, tmpl.Resources[role].Properties, "ManagedPolicyArns", "they allow too much")

		variables := p["Environment"].(map[string]any)["Variables"].(map[string]any)
		require.ElementsMatch(t, config.Names, slices.Collect(maps.Keys(variables)), f.Name)
		if f.Name == "migrate" {
			require.Equal(t, "false", variables["DB_IAM_AUTH"])
			require.NotEmpty(t, variables["DB_PASSWORD_SECRET"])
			require.NotContains(t, text(t, variables), "Proxy", "the lock of a migration belongs to its session")
		} else {
			require.Equal(t, "true", variables["DB_IAM_AUTH"])
			require.Contains(t, text(t, variables["DATABASE_URL"]), "postgres://"+f.Role+"@")
			require.Equal(t, "AWS::RDS::DBProxy", tmpl.Resources[target(variables["DATABASE_URL"])].Type)
			require.Contains(t, r.DependsOn, migrations[0], "%s waits for the schema", f.Name)
			if f.Name == "expire-promises" {
				require.Len(t, slices.DeleteFunc(slices.Clone(r.DependsOn), func(id string) bool {
					return tmpl.Resources[id].Type != "AWS::Lambda::Function"
				}), len(routes.Functions)-2, "the other functions first, but migrate")
			}
			policies := tmpl.policiesOf(role)
			require.Contains(t, policies, "/"+f.Role+`"`)
			require.Equal(t, variables["TOKEN_KEYS"] != "", strings.Contains(policies, "secretsmanager:GetSecretValue"), f.Name)
			require.Equal(t, f.Name == "create-promise", variables["SIGNING_KEY"] != "", f.Name)
			for _, other := range []string{"promises_app", "promises_reader", "promises_sweeper", "promises_admin", "postgres"} {
				require.Equal(t, other == f.Role, strings.Contains(policies, "/"+other+`"`), "%s as %s", f.Name, other)
			}
		}
		require.NotContains(t, text(t, variables), "resolve:secretsmanager", "no secret in an environment")
		require.Equal(t, routes.HTTPAlias, variables["HTTP_ALIAS"])
		require.Equal(t, map[bool]string{true: "20", false: "5"}[tmpl.large], variables["MAX_WAITS"])
	}
}

// Of all roles, only create-promise's may read the private key that signs promise tokens, and only migrate's may write it. Functions
// that verify tokens are changed before the one that signs them: those of the previous release do not know the new key.
func (tmpl template) requireSigningKey(t *testing.T) {
	t.Helper()
	secrets := map[string]string{}
	for id, r := range tmpl.of("AWS::SecretsManager::Secret") {
		secrets[strings.TrimPrefix(r.Properties["Name"].(string), "promises-"+tmpl.stage+"/")] = id
		require.Equal(t, strings.HasSuffix(r.Properties["Name"].(string), "/token-keys"), r.Properties["GenerateSecretString"] != nil, "migrate writes the signing key")
	}
	require.Len(t, secrets, 2)
	require.Equal(t, "FunctionsTokenKeys56C82E5C", secrets["token-keys"], "another logical ID is another secret: the tokens of earlier releases would be dead")
	key := secrets["signing-key"]

	functions, may := map[string]string{}, map[string][]string{} // by role; by function
	for _, f := range routes.Functions {
		_, r := tmpl.function(t, f.Name)
		functions[target(r.Properties["Role"])] = f.Name
	}
	for kind := range map[string]bool{"AWS::IAM::Policy": true, "AWS::IAM::ManagedPolicy": true, "AWS::IAM::Role": true, "AWS::SecretsManager::ResourcePolicy": true} {
		for id, r := range tmpl.of(kind) {
			if !strings.Contains(text(t, r.Properties), key) {
				continue
			}
			require.Equal(t, "AWS::IAM::Policy", kind, id)
			require.Len(t, r.Properties["Roles"], 1)
			function := functions[target(r.Properties["Roles"])]
			for _, s := range r.Properties["PolicyDocument"].(map[string]any)["Statement"].([]any) {
				if s := s.(map[string]any); strings.Contains(text(t, s["Resource"]), key) {
					actions, ok := s["Action"].([]any)
					if !ok {
						actions = []any{s["Action"]}
					}
					for _, action := range actions {
						may[function] = append(may[function], strings.TrimPrefix(action.(string), "secretsmanager:"))
					}
				}
			}
		}
	}
	require.Equal(t, map[string][]string{"create-promise": {"GetSecretValue"}, "migrate": {"DescribeSecret", "PutSecretValue"}}, may)

	_, signs := tmpl.function(t, "create-promise")
	for _, f := range routes.Functions {
		id, r := tmpl.function(t, f.Name)
		variables := r.Properties["Environment"].(map[string]any)["Variables"].(map[string]any)
		require.Equal(t, slices.Contains(routes.Signing, f.Name), target(variables["SIGNING_KEY"]) == key, f.Name)
		require.Equal(t, variables["TOKEN_KEYS"] != "" && f.Name != "create-promise", slices.Contains(signs.DependsOn, id), "%s verifies tokens", f.Name)
	}
	for _, r := range tmpl.of("Custom::Migration") {
		require.Equal(t, key, target(r.Properties["SigningKey"]))
	}
}

// policiesOf is the text of the policies of a role.
func (tmpl template) policiesOf(role string) string {
	var all []string
	for _, r := range tmpl.of("AWS::IAM::Policy") {
		if target(r.Properties["Roles"]) == role {
			b, _ := json.Marshal(r.Properties["PolicyDocument"])
			all = append(all, string(b))
		}
	}
	return strings.Join(all, "\n")
}

// The routes are the table, each with its function and its authorizer.
func (tmpl template) requireRoutes(t *testing.T, settings map[string]string) {
	t.Helper()
	var found []routes.Route
	for _, r := range tmpl.of("AWS::ApiGatewayV2::Route") {
		integration := tmpl.Resources[target(r.Properties["Target"])]
		require.Equal(t, "AWS::ApiGatewayV2::Integration", integration.Type)
		require.Equal(t, "2.0", integration.Properties["PayloadFormatVersion"])
		function := tmpl.Resources[target(integration.Properties["IntegrationUri"])]
		tmpl.requireAlias(t, integration)
		name := strings.TrimPrefix(function.Properties["FunctionName"].(string), "promises-"+tmpl.stage+"-")
		method, path, _ := strings.Cut(r.Properties["RouteKey"].(string), " ")
		route := routes.Route{Method: method, Path: path, Function: name}
		if authorizer, ok := tmpl.Resources[target(r.Properties["AuthorizerId"])]; ok {
			require.Equal(t, "AWS::ApiGatewayV2::Authorizer", authorizer.Type)
			route.Authorizer = authorizer.Properties["Name"].(string)
		}
		found = append(found, route)
	}
	require.ElementsMatch(t, routes.HTTP, found)
	routed := map[string]bool{}
	for _, r := range routes.HTTP {
		routed[r.Function] = true
	}
	require.Len(t, tmpl.of("AWS::Lambda::Alias"), len(routed))

	authorizers := tmpl.of("AWS::ApiGatewayV2::Authorizer")
	require.Len(t, authorizers, len(routes.Authorizers))
	for _, want := range routes.Authorizers {
		id, _ := tmpl.function(t, want.Function)
		found := false
		for _, a := range authorizers {
			p := a.Properties
			if p["Name"] == want.Name {
				found = true
				require.Equal(t, id, target(p["AuthorizerUri"]))
				require.Equal(t, true, p["EnableSimpleResponses"])
				require.Equal(t, "2.0", p["AuthorizerPayloadFormatVersion"])
				require.Equal(t, []any{want.IdentitySource}, p["IdentitySource"])
				require.EqualValues(t, want.TTL.Seconds(), p["AuthorizerResultTtlInSeconds"])
			}
		}
		require.True(t, found, want.Name)
	}
	for _, r := range tmpl.of("AWS::ApiGatewayV2::Api") {
		require.Equal(t, settings["corsOrigins"] != "", r.Properties["CorsConfiguration"] != nil, "off unless asked")
		if settings["corsOrigins"] != "" {
			cors, err := json.Marshal(r.Properties["CorsConfiguration"])
			require.NoError(t, err)
			require.JSONEq(t, `{"AllowOrigins":["https://app.example.com"],"AllowMethods":["GET","POST","DELETE"],
				"AllowHeaders":["authorization","content-type"],"MaxAge":3600}`, string(cors))
		}
		require.Equal(t, settings["domain"] != "", r.Properties["DisableExecuteApiEndpoint"] == true)
	}
	for _, r := range tmpl.of("AWS::ApiGatewayV2::Stage") {
		format := text(t, r.Properties["AccessLogSettings"])
		for _, secret := range []string{"$context.path", "queryString", "$context.authorizer.principalId"} {
			require.NotContains(t, format, secret, "paths hold keys, query strings tokens")
		}
		all := r.Properties["DefaultRouteSettings"].(map[string]any)
		require.NotEmpty(t, all["ThrottlingRateLimit"])
		own := r.Properties["RouteSettings"].(map[string]any)
		for id, route := range tmpl.of("AWS::ApiGatewayV2::Route") {
			name := route.Properties["RouteKey"].(string)
			settings, limited := own[name].(map[string]any)
			require.True(t, limited, "%s has a throttle of its own", name)
			require.Contains(t, r.DependsOn, id, "a stage cannot name a route that is not there")
			share := 1.0
			switch {
			case route.Properties["AuthorizationType"] == "NONE":
				share = 10
			case strings.HasSuffix(name, "/wait"):
				share = 4
			case strings.HasPrefix(name, "GET "):
				share = 2
			}
			require.InDelta(t, all["ThrottlingRateLimit"], settings["ThrottlingRateLimit"].(float64)*share, 0, name)
			require.InDelta(t, all["ThrottlingBurstLimit"], settings["ThrottlingBurstLimit"].(float64)*share, 0, name)
			delete(own, name)
		}
		require.Empty(t, own)
		var line map[string]string
		require.NoError(t, json.Unmarshal([]byte(r.Properties["AccessLogSettings"].(map[string]any)["Format"].(string)), &line))
		for name, variable := range line {
			require.Equal(t, "$context."+name, variable)
			require.Contains(t, httpAPIVariables, name, "API Gateway logs - for it")
		}
		log := tmpl.Resources[target(r.Properties["AccessLogSettings"].(map[string]any)["DestinationArn"])]
		require.Equal(t, "/aws/vendedlogs/apigateway/promises-"+tmpl.stage, log.Properties["LogGroupName"])
		require.EqualValues(t, map[bool]int{true: 2000, false: 100}[tmpl.large], all["ThrottlingRateLimit"])
		require.EqualValues(t, map[bool]int{true: 1000, false: 200}[tmpl.large], all["ThrottlingBurstLimit"])
	}
}

// requireAlias checks that an integration invokes its function through the alias whose events the function believes, and may do so.
func (tmpl template) requireAlias(t *testing.T, integration resource) {
	t.Helper()
	uri := integration.Properties["IntegrationUri"]
	function := target(uri)
	require.Equal(t, map[string]any{"Fn::Join": []any{"", []any{map[string]any{"Fn::GetAtt": []any{function, "Arn"}}, ":http"}}}, uri)
	aliases := 0
	for id, alias := range tmpl.of("AWS::Lambda::Alias") {
		if target(alias.Properties["FunctionName"]) != function {
			continue
		}
		aliases++
		require.Equal(t, routes.HTTPAlias, alias.Properties["Name"])
		require.Equal(t, "$LATEST", alias.Properties["FunctionVersion"])
		require.Contains(t, integration.DependsOn, id)
		permissions := 0
		for _, p := range tmpl.of("AWS::Lambda::Permission") {
			if p.Properties["Principal"] == "apigateway.amazonaws.com" && target(p.Properties["FunctionName"]) == id {
				permissions++
			}
			require.NotEqual(t, function, target(p.Properties["FunctionName"]), "API Gateway needs no other way to it")
		}
		require.Positive(t, permissions)
	}
	require.Equal(t, 1, aliases)
}

func (tmpl template) requireDatabase(t *testing.T, settings map[string]string) {
	t.Helper()
	main := tmpl.of("AWS::RDS::DBCluster")
	parameters := tmpl.of("AWS::RDS::DBClusterParameterGroup")
	if len(main) == 0 {
		main, parameters = tmpl.of("AWS::RDS::DBInstance"), tmpl.of("AWS::RDS::DBParameterGroup")
	}
	require.Len(t, main, 1)
	for _, r := range main {
		require.Equal(t, tmpl.guarded, r.Properties["DeletionProtection"])
		require.Equal(t, true, r.Properties["ManageMasterUserPassword"])
		from := text(t, []any{r.Properties["DBSnapshotIdentifier"], r.Properties["SnapshotIdentifier"]})
		require.Equal(t, settings["snapshot"] != "", strings.Contains(from, `"`+settings["snapshot"]+`"`), from)
		for _, name := range []string{"MasterUsername", map[string]string{"AWS::RDS::DBInstance": "DBName", "AWS::RDS::DBCluster": "DatabaseName"}[r.Type]} {
			require.Equal(t, settings["snapshot"] == "", r.Properties[name] != nil, "a snapshot brings its own %s", name)
		}
		require.NotContains(t, r.Properties, "MasterUserPassword")
		require.Equal(t, tmpl.guarded, r.DeletionPolicy == "Retain")
		require.Equal(t, tmpl.guarded, r.UpdateReplacePolicy == "Retain")
		require.Equal(t, !tmpl.guarded, r.Properties["DeleteAutomatedBackups"])
		require.EqualValues(t, map[bool]int{true: 35, false: 1}[tmpl.guarded], r.Properties["BackupRetentionPeriod"])
		if r.Type == "AWS::RDS::DBInstance" {
			require.Equal(t, tmpl.large, r.Properties["MultiAZ"])
			require.Equal(t, map[bool]string{true: "db.r7g.large", false: "db.t4g.medium"}[tmpl.large], r.Properties["DBInstanceClass"])
			require.Equal(t, map[bool]string{true: "400", false: "20"}[tmpl.large], r.Properties["AllocatedStorage"])
			require.Equal(t, true, r.Properties["EnablePerformanceInsights"])
		} else {
			scaling := r.Properties["ServerlessV2ScalingConfiguration"].(map[string]any)
			require.EqualValues(t, map[bool]int{true: 32, false: 4}[tmpl.large], scaling["MaxCapacity"])
			require.Len(t, tmpl.of("AWS::RDS::DBInstance"), map[bool]int{true: 2, false: 1}[tmpl.large])
		}
	}
	forced := 0
	for _, r := range parameters {
		if p := r.Properties["Parameters"].(map[string]any); p["rds.force_ssl"] == "1" {
			forced++
			require.Equal(t, "0", p["log_parameter_max_length_on_error"], "values are the callers'")
		}
	}
	require.Equal(t, 1, forced)
	for _, r := range tmpl.of("AWS::RDS::DBProxy") {
		require.NotContains(t, r.Properties, "Auth", "no password, of nobody")
	}
}

// The connections that the fleet can open, counted in the template, are no more than RDS Proxy has, which leaves Postgres
// some of its own.
func (tmpl template) requireFleet(t *testing.T) {
	t.Helper()
	if !tmpl.large {
		return
	}
	fleet, reserved := 0, 0
	for _, r := range tmpl.of("AWS::Lambda::Function") {
		n, _ := r.Properties["ReservedConcurrentExecutions"].(float64)
		reserved += int(n)
		if r.Properties["FunctionName"] != "promises-"+tmpl.stage+"-migrate" {
			size := database.PoolSize
			if r.Properties["FunctionName"] == "promises-"+tmpl.stage+"-expire-promises" {
				size = database.SweepPoolSize
			}
			fleet += int(n) * size
		}
	}
	require.Equal(t, fleetConnections(), fleet)
	require.LessOrEqual(t, reserved+headroom, 900, "of 1,000, Lambda keeps 100 unreserved")
	require.GreaterOrEqual(t, headroom, 76, "what the next releases have planned")
	most, percent := 0, 0.0
	for _, kind := range []string{"AWS::RDS::DBClusterParameterGroup", "AWS::RDS::DBParameterGroup"} {
		for _, r := range tmpl.of(kind) {
			if s, ok := r.Properties["Parameters"].(map[string]any)["max_connections"].(string); ok {
				var err error
				most, err = strconv.Atoi(s)
				require.NoError(t, err)
			}
		}
	}
	for _, r := range tmpl.of("AWS::RDS::DBProxyTargetGroup") {
		percent = r.Properties["ConnectionPoolConfigurationInfo"].(map[string]any)["MaxConnectionsPercent"].(float64)
	}
	require.Positive(t, most)
	require.Positive(t, percent)
	require.LessOrEqual(t, float64(fleet+headroom*database.PoolSize), float64(most)*percent/100)
	require.GreaterOrEqual(t, float64(most)*(100-percent)/100, 50.0)
}

func (tmpl template) requireRest(t *testing.T, settings map[string]string) {
	t.Helper()
	for _, r := range tmpl.of("AWS::IAM::ManagedPolicy") {
		require.Equal(t, "promises-"+tmpl.stage+"-engine-{Region}", joined(r.Properties["ManagedPolicyName"]))
		require.Equal(t, "Retain", r.UpdateReplacePolicy, "engines have the policy of the old name")
		statements := r.Properties["PolicyDocument"].(map[string]any)["Statement"].([]any)
		require.Len(t, statements, 1)
		statement := statements[0].(map[string]any)
		require.Equal(t, "lambda:InvokeFunction", statement["Action"])
		var names []string
		for _, arn := range statement["Resource"].([]any) {
			require.Equal(t, map[string]any{"Fn::GetAtt": []any{target(arn), "Arn"}}, arn, "with a qualifier it would allow the alias of API Gateway")
			name := tmpl.Resources[target(arn)].Properties["FunctionName"].(string)
			names = append(names, strings.TrimPrefix(name, "promises-"+tmpl.stage+"-"))
		}
		require.ElementsMatch(t, []string{
			"create-promise", "cancel-promise", "extend-promise", "resolve-by-id", "resolve-by-key", "reject", "get-promise", "list-events",
			"wait-promise", "wait-events",
		}, names)
	}
	require.Contains(t, tmpl.Outputs, "EnginePolicyArn")
	require.Contains(t, tmpl.Outputs, "Url")
	require.Equal(t, settings["domain"] != "", tmpl.Outputs["DomainTarget"] != nil)

	schedules := tmpl.of("AWS::Scheduler::Schedule")
	require.Len(t, schedules, len(routes.Schedules))
	for _, r := range schedules {
		to := r.Properties["Target"].(map[string]any)
		require.Equal(t, "rate(1 minute)", r.Properties["ScheduleExpression"])
		require.Equal(t, "{}", to["Input"])
		require.Equal(t, "AWS::SQS::Queue", tmpl.Resources[target(to["DeadLetterConfig"])].Type)
	}
	require.Len(t, tmpl.of("AWS::Lambda::EventInvokeConfig"), 2, "what nobody waits for leaves a dead letter")
	for _, r := range tmpl.of("AWS::Lambda::EventInvokeConfig") {
		require.Equal(t, "AWS::SQS::Queue", tmpl.Resources[target(r.Properties["DestinationConfig"])].Type)
		require.LessOrEqual(t, r.Properties["MaximumEventAgeInSeconds"], 900.0, "Lambda would keep them for six hours")
	}
	for _, r := range tmpl.of("AWS::EC2::VPCEndpoint") {
		require.NotEmpty(t, r.Properties["PolicyDocument"])
	}
	require.Len(t, tmpl.of("AWS::EC2::VPCEndpoint"), 2)
	for _, r := range tmpl.of("AWS::CloudWatch::Dashboard") {
		require.Equal(t, "promises-"+tmpl.stage+"-{Region}", joined(r.Properties["DashboardName"]))
	}
	for id, r := range tmpl.Resources {
		for _, property := range []string{"DashboardName", "GroupName", "InstanceProfileName", "ManagedPolicyName", "RoleName", "UserName"} {
			if name := r.Properties[property]; name != nil && (r.Type == "AWS::CloudWatch::Dashboard" || strings.HasPrefix(r.Type, "AWS::IAM::")) {
				require.Contains(t, joined(name), "{Region}", "%s: the name is global in an account, which may have the stage in two regions", id)
			}
		}
	}

	// Each alarm is explained, and tells somebody where somebody is to be told.
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for _, r := range tmpl.of("AWS::CloudWatch::Alarm") {
		name := strings.TrimPrefix(r.Properties["AlarmName"].(string), "promises-"+tmpl.stage+"-")
		for _, f := range routes.Functions {
			for _, what := range []string{"-errors", "-slow", "-throttled"} {
				if name == f.Name+what {
					name = "<function>" + what
				}
			}
		}
		require.True(t, strings.Contains(string(readme), "| `"+name+"` |"), "README.md does not explain the alarm %s", name)
		require.Equal(t, settings["alarmEmail"] != "", r.Properties["AlarmActions"] != nil)
		require.NotEqual(t, "breaching", r.Properties["TreatMissingData"], "%s would go off at once: a new stage has no data", name)
		tells := name == "overdue"
		require.Equal(t, tells, r.Properties["TreatMissingData"] == "missing", name)
		require.Equal(t, tells && settings["alarmEmail"] != "", r.Properties["InsufficientDataActions"] != nil, "%s: silence", name)
	}
	tmpl.requireTopic(t, settings)
	for _, r := range tmpl.of("AWS::Logs::LogGroup") {
		require.EqualValues(t, map[bool]int{true: 90, false: 7}[tmpl.guarded], r.Properties["RetentionInDays"])
		require.Equal(t, tmpl.guarded, r.DeletionPolicy == "Retain")
	}
	for _, r := range tmpl.of("AWS::SecretsManager::Secret") {
		require.Equal(t, tmpl.guarded, r.DeletionPolicy == "Retain")
	}
	var manifest struct {
		Artifacts map[string]struct {
			Properties struct{ TerminationProtection bool }
		}
	}
	text, err := os.ReadFile(filepath.Join(tmpl.dir, "manifest.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &manifest))
	require.Equal(t, tmpl.guarded, manifest.Artifacts["promises-"+tmpl.stage].Properties.TerminationProtection)
}

// The alarms' mails are sent: the topic lets CloudWatch publish, for this account, and its key lets it encrypt.
func (tmpl template) requireTopic(t *testing.T, settings map[string]string) {
	t.Helper()
	var allowed []any
	for _, kind := range []string{"AWS::SNS::TopicPolicy", "AWS::KMS::Key"} {
		for _, r := range tmpl.of(kind) {
			document, _ := r.Properties["PolicyDocument"].(map[string]any)
			if document == nil {
				document = r.Properties["KeyPolicy"].(map[string]any)
			}
			for _, s := range document["Statement"].([]any) {
				if s := s.(map[string]any); text(t, s["Principal"]) == `{"Service":"cloudwatch.amazonaws.com"}` {
					require.Equal(t, "Allow", s["Effect"])
					allowed = append(allowed, s["Action"])
					require.Contains(t, text(t, s["Condition"]), `{"Ref":"AWS::AccountId"}`, "and no other account's alarms")
				}
			}
		}
	}
	if settings["alarmEmail"] == "" {
		require.Empty(t, allowed)
	} else {
		require.Equal(t, []any{"sns:Publish", []any{"kms:Decrypt", "kms:GenerateDataKey*"}}, allowed)
	}
}

// The migration runs again when migrate or the database is another one, and before anything uses what it has migrated.
func (tmpl template) requireMigration(t *testing.T, settings map[string]string) {
	t.Helper()
	database := map[string]any{}
	for id := range tmpl.of("AWS::RDS::DBInstance") {
		database["Fn::GetAtt"] = []any{id, "DbiResourceId"}
	}
	for id := range tmpl.of("AWS::RDS::DBCluster") {
		database["Fn::GetAtt"] = []any{id, "DBClusterResourceId"}
	}
	groups := map[string]string{} // by description
	for id, r := range tmpl.of("AWS::EC2::SecurityGroup") {
		groups[r.Properties["GroupDescription"].(string)] = id
	}
	for id, r := range tmpl.of("Custom::Migration") {
		p := r.Properties
		require.ElementsMatch(t, []string{"ServiceToken", "ServiceTimeout", "Version", "Database", "Guarded", "Snapshot", "SigningKey"}, slices.Collect(maps.Keys(p)))
		require.Len(t, p["Version"], 64)
		require.Equal(t, database, p["Database"])
		require.Equal(t, strconv.FormatBool(tmpl.guarded), p["Guarded"])
		require.Equal(t, settings["snapshot"], p["Snapshot"])

		open := 0
		for rule, in := range tmpl.of("AWS::EC2::SecurityGroupIngress") {
			if target(in.Properties["GroupId"]) == groups["The endpoint of Secrets Manager"] && target(in.Properties["SourceSecurityGroupId"]) == groups["migrate"] {
				open++
				require.Contains(t, r.DependsOn, rule, "the password is behind it")
			}
		}
		require.Equal(t, 1, open)
		for _, kind := range []string{"AWS::RDS::DBProxy", "AWS::RDS::DBProxyTargetGroup"} {
			for _, proxy := range tmpl.of(kind) {
				require.Contains(t, proxy.DependsOn, id, "callers stay with the database that they have until migrate accepts another one")
			}
		}
		for policyID, policy := range tmpl.of("AWS::IAM::Policy") {
			if strings.Contains(text(t, policy.Properties["PolicyDocument"]), "rds-db:connect") && strings.Contains(text(t, policy.Properties["PolicyDocument"]), "ResourceId") {
				require.Contains(t, policy.DependsOn, id, "until then the proxy connects to the database that it has")
				for _, f := range routes.Functions {
					if _, function := tmpl.function(t, f.Name); f.Name != "migrate" {
						require.Contains(t, function.DependsOn, policyID, "%s connects as a user that the proxy may have", f.Name)
					}
				}
			}
		}
	}
}

func (tmpl template) requireNetwork(t *testing.T, settings map[string]string) {
	t.Helper()
	var zones []string
	for _, r := range tmpl.of("AWS::EC2::Subnet") {
		zones = append(zones, text(t, r.Properties["AvailabilityZone"]))
	}
	if settings["zones"] == "" {
		require.ElementsMatch(t, []string{`{"Fn::Select":[0,{"Fn::GetAZs":""}]}`, `{"Fn::Select":[1,{"Fn::GetAZs":""}]}`}, zones)
	} else {
		require.ElementsMatch(t, strings.Split(settings["zones"], ","), strings.Split(strings.ReplaceAll(strings.Join(zones, ","), `"`, ""), ","))
	}
}

// joined is the text that Fn::Join makes, with {Region} for {"Ref": "AWS::Region"}.
func joined(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case map[string]any:
		if ref, ok := v["Ref"].(string); ok {
			return "{" + strings.TrimPrefix(ref, "AWS::") + "}"
		}
		list, _ := v["Fn::Join"].([]any)
		text := ""
		for _, part := range list[1].([]any) {
			text += joined(part)
		}
		return text
	}
	return ""
}

// requireNoViolation fails at each error of the validator, and at each warning that is not answered for.
func requireNoViolation(t *testing.T, dir string) {
	t.Helper()
	var report struct {
		PluginReports []struct {
			Violations           []map[string]any
			SuppressedViolations []struct{ RuleName, Reason string }
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "validation-report.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &report))
	require.NotEmpty(t, report.PluginReports)
	for _, r := range report.PluginReports {
		require.Empty(t, r.Violations)
		for _, v := range r.SuppressedViolations {
			require.NotEmpty(t, v.Reason, v.RuleName)
		}
	}
}

// requireFlags fails where the CDK CLI would warn of feature flags that cdk.json does not decide on: after an upgrade of the CDK
// there may be new ones. A flag whose recommended value is what the CDK does without it needs no decision.
func requireFlags(t *testing.T, dir string) {
	t.Helper()
	var manifest struct {
		Artifacts map[string]struct {
			Type       string
			Properties struct {
				Flags map[string]struct {
					UserValue, RecommendedValue any
					UnconfiguredBehavesLike     map[string]any
				}
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &manifest))
	seen := 0
	for _, a := range manifest.Artifacts {
		for name, flag := range a.Properties.Flags {
			seen++
			otherwise := flag.UnconfiguredBehavesLike["v2"]
			if otherwise == nil {
				otherwise = false
			}
			require.True(t, flag.UserValue != nil || otherwise == flag.RecommendedValue, "cdk.json: context: set %q, to %v if that changes no template", name, flag.RecommendedValue)
		}
	}
	require.Positive(t, seen)
}

// httpAPIVariables are the $context variables that the access log of an HTTP API has. Any other name after "authorizer." is a key
// of what the authorizer answers.
// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-logging-variables.html
var httpAPIVariables = []string{
	"accountId", "apiId", "authorizer.error", "awsEndpointRequestId", "awsEndpointRequestId2", "customDomain.basePathMatched", "dataProcessed", "domainName", "domainPrefix", "error.message",
	"error.messageString", "error.responseType", "extendedRequestId", "httpMethod", "identity.accountId", "identity.caller",
	"identity.clientCert.clientCertPem", "identity.clientCert.issuerDN", "identity.clientCert.serialNumber",
	"identity.clientCert.subjectDN", "identity.clientCert.validity.notAfter", "identity.clientCert.validity.notBefore",
	"identity.cognitoAuthenticationProvider", "identity.cognitoAuthenticationType", "identity.cognitoIdentityId",
	"identity.cognitoIdentityPoolId", "identity.principalOrgId", "identity.sourceIp", "identity.user", "identity.userAgent",
	"identity.userArn", "integration.error", "integration.integrationStatus", "integration.latency", "integration.requestId",
	"integration.status", "integrationErrorMessage", "integrationLatency", "integrationStatus", "path", "protocol", "requestId",
	"requestTime", "requestTimeEpoch", "responseLatency", "responseLength", "routeKey", "stage", "status",
}

// Two syntheses write the same bytes, so that a deployment changes what was changed.
func TestSynthesisIsRepeatable(t *testing.T) {
	t.Parallel()
	sums := func() map[string]string {
		dir, out, err := synthesize(t, map[string]string{"stage": "production"})
		require.NoError(t, err, out)
		all := map[string]string{}
		require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			sum := sha256.Sum256(b)
			all[strings.TrimPrefix(path, dir)] = hex.EncodeToString(sum[:])
			return err
		}))
		return all
	}
	require.Equal(t, sums(), sums())
}

// What was asked for wrongly is refused by name, and nothing is written.
func TestRefusedSettings(t *testing.T) {
	t.Parallel()
	_, out, err := synthesize(t, map[string]string{"stage": "Prod", "databse": "aurora"})
	require.Error(t, err)
	require.Contains(t, out, "-c stage=Prod: ")
	require.Contains(t, out, "-c databse=aurora: there is no such setting")

	for name, values := range map[string][]string{
		"size": {"", "medium", "Large"},
		"zones": {"", "us-east-1a", "us-east-1a,us-east-1a", "us-east-1a,us-west-2a", "us-east-1a, us-east-1b", "use1-az1,use1-az2",
			"us-west-2-lax-1a,us-west-2-lax-1b", "us-east-1a,us-east-1b,"},
		"stage":         {"", "1a", "a_b", strings.Repeat("a", 21)},
		"database":      {"", "mysql", "Aurora"},
		"domain":        {"", "localhost", "https://a.example.com", "A.example.com", "a..example.com"},
		"alarmEmail":    {"", "a", "A <a@example.com>"},
		"retentionDays": {"", "-1", "36501", "1.5"},
		"snapshot":      {"", "1a", "a b"},
		"corsOrigins":   {"", "*", "https://a.example.com/", "a.example.com", "https://a.example.com,"},
		"other":         {"x"},
	} {
		for _, value := range values {
			_, err := readSettings(map[string]any{name: value})
			require.ErrorContains(t, err, "-c "+name+"="+value+": ")
		}
	}
	s, err := readSettings(map[string]any{"retentionDays": 7.0, "@aws-cdk/core:x": "y", "aws:cdk:z": true, "tree": []any{}})
	require.NoError(t, err)
	require.Equal(t, settings{Stage: "dev", RetentionDays: 7}, s)
}

// Every stage is guarded that may be somebody's production, whatever it is called; its size is another question.
func TestStages(t *testing.T) {
	t.Parallel()
	for stage, guarded := range map[string]bool{
		"dev": false, "dev-anna": false, "test-load": false,
		"production": true, "prod": true, "prd": true, "live": true, "main": true, "staging": true, "qa-2": true, "develop": true, "test": true, "devices": true,
	} {
		for size, large := range map[string]bool{"": guarded, "small": false, "large": true} {
			given := map[string]any{"stage": stage, "size": size}
			if size == "" {
				delete(given, "size")
			}
			s, err := readSettings(given)
			require.NoError(t, err)
			require.Equal(t, guarded, s.guarded(), stage)
			require.Equal(t, large, s.Large, "%s, %s", stage, size)
		}
	}
	s, err := readSettings(map[string]any{"zones": "us-gov-west-1a,us-gov-west-1b"})
	require.NoError(t, err)
	require.Equal(t, []string{"us-gov-west-1a", "us-gov-west-1b"}, s.Zones)
}
