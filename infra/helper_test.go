package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/build"
	"github.com/flovyn/promises/shared/skip"
)

var folder string // contains the built app

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

// app builds the CDK app once and returns its path. It also builds the functions, which build.Functions keeps: syntheses
// that run at once would each link all of them.
var app = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "infra")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, build.Functions(context.Background(), filepath.Join(folder, "functions"), build.Lambda)
})

// joined returns the text that Fn::Join makes, with {Region} for {"Ref": "AWS::Region"}.
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

// needNode skips the test if Node is missing. It fails the test instead if CI_SYNTH is set.
func needNode(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil && os.Getenv("CI_SYNTH") != "" {
		t.Fatal("Node is missing, and CI_SYNTH requires it")
	}
	skip.Without(t, "node", "which the CDK needs: the templates are not tested")
}

// A resource is a resource of a CloudFormation template.
type resource struct {
	Type           string
	Properties     map[string]any
	Metadata       map[string]any
	DependsOn      []string
	DeletionPolicy string

	UpdateReplacePolicy string
}

// synthesize runs the app as the CDK CLI does. The context is the one of cdk.json, with overrides.
func synthesize(t *testing.T, overrides map[string]string) (dir, output string, err error) {
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
		require.False(t, strings.HasPrefix(name, "aws:"), "%s: the CDK CLI warns of names that it reserves", name)
	}
	file.Context["aws:cdk:enable-asset-metadata"] = true // the CDK CLI sets it too, and SAM CLI needs it
	for name, value := range overrides {
		file.Context[name] = value
	}
	settings, err := json.Marshal(file.Context)
	require.NoError(t, err)
	dir = filepath.Join(t.TempDir(), "cdk.out")
	cmd := exec.Command(path)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CDK_OUTDIR="+dir, "CDK_CONTEXT_JSON="+string(settings), "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION=20")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return dir, out.String(), err
}

// target returns the logical ID that the first {"Ref": id} or {"Fn::GetAtt": [id, ...]} within v names.
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

// A template is the synthesised template of a stage, with the settings that it was made from.
type template struct {
	settings  map[string]string
	stage     string
	guarded   bool
	large     bool
	Resources map[string]resource
	Outputs   map[string]any
	dir       string // the cloud assembly
	output    string // printed by the app
}

// functionVariables returns the environment of one of routes.Functions.
func (tmpl template) functionVariables(t *testing.T, name string) map[string]any {
	t.Helper()
	_, r := tmpl.function(t, name)
	return r.Properties["Environment"].(map[string]any)["Variables"].(map[string]any)
}

// function returns the logical ID and the resource of one of routes.Functions.
func (tmpl template) function(t *testing.T, name string) (string, resource) {
	t.Helper()
	for id, r := range tmpl.ofType("AWS::Lambda::Function") {
		if r.Properties["FunctionName"] == "promises-"+tmpl.stage+"-"+name {
			return id, r
		}
	}
	require.Fail(t, "the template has no function "+name)
	return "", resource{}
}

// functionName returns the name of a function in routes.Functions.
func (tmpl template) functionName(r resource) string {
	return strings.TrimPrefix(r.Properties["FunctionName"].(string), "promises-"+tmpl.stage+"-")
}

// ofType returns the resources of a type by logical ID.
func (tmpl template) ofType(kind string) map[string]resource {
	found := map[string]resource{}
	for id, r := range tmpl.Resources {
		if r.Type == kind {
			found[id] = r
		}
	}
	return found
}

// text returns v as JSON.
func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}
