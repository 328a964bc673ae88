// Package secrettest replaces AWS Secrets Manager in tests. It speaks the protocol
// of the SDKs on loopback and stores the versions of secrets as AWS documents it.
package secrettest

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// ARN returns the ARN of a secret with that name.
func ARN(name string) string {
	return "arn:aws:secretsmanager:us-east-1:123456789012:secret:" + name + "-AbCdEf"
}

// A Manager is a Secrets Manager with the secrets that Start created.
type Manager struct {
	URL string

	mu      sync.Mutex
	secrets map[string]*versions
	done    map[string]int
	before  func(operation, arn string) (code string)
	after   func(operation, arn string)
}

type versions struct {
	values            map[string]string // by version id
	current, previous string
	stored            time.Time // when current was stored
}

// Start starts a Manager that has an empty secret for each ARN. It stops when the test
// ends.
func Start(t testing.TB, arns ...string) *Manager {
	t.Helper()
	m := &Manager{secrets: map[string]*versions{}, done: map[string]int{}}
	for _, arn := range arns {
		m.secrets[arn] = &versions{values: map[string]string{}}
	}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	m.URL = server.URL
	return m
}

// Env returns the environment variables with which a process calls the Manager.
func (m *Manager) Env() []string {
	return []string{
		"AWS_ENDPOINT_URL_SECRETS_MANAGER=" + m.URL, "AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=local", "AWS_SESSION_TOKEN=local",
	}
}

// Current returns the id and the value of the current version, or "" if the secret is
// empty.
func (m *Manager) Current(arn string) (version, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.secrets[arn]
	return s.current, s.values[s.current]
}

// Hook sets two functions, each of which may be nil. The Manager calls before ahead of
// each operation; if before returns a code, the operation fails with it. It calls
// after between a successful operation and its answer.
func (m *Manager) Hook(before func(operation, arn string) (code string), after func(operation, arn string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before, m.after = before, after
}

// Calls returns the number of calls of each operation. It does not count a call that
// the hook before has failed.
func (m *Manager) Calls() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.done)
}

// Set stores value as the current version, as an operator does.
func (m *Manager) Set(arn, version, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.secrets[arn].put(version, value)
}

// Age makes the current version older.
func (m *Manager) Age(arn string, by time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.secrets[arn].stored = m.secrets[arn].stored.Add(-by)
}

func (v *versions) put(version, value string) {
	if version != v.current {
		v.previous, v.current, v.stored = v.current, version, time.Now()
	}
	v.values[version] = value
	for id := range v.values { // AWS deletes versions without a label
		if id != v.current && id != v.previous {
			delete(v.values, id)
		}
	}
}

// ServeHTTP handles one call.
func (m *Manager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct{ SecretID, ClientRequestToken, SecretString string } // encoding/json stores SecretId in the first
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Header.Get("Authorization") == "" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	operation := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	answer, code := map[string]any{}, ""
	m.mu.Lock()
	before, after := m.before, m.after
	m.mu.Unlock()
	if before != nil {
		code = before(operation, in.SecretID)
	}
	if code == "" {
		answer, code = m.do(operation, in.SecretID, in.ClientRequestToken, in.SecretString)
	}
	if after != nil && code == "" {
		after(operation, in.SecretID)
	}
	if code != "" {
		w.WriteHeader(http.StatusBadRequest)
		answer = map[string]any{"__type": code, "Message": operation}
	}
	json.NewEncoder(w).Encode(answer) //nolint:errcheck // the caller has disconnected
}

func (m *Manager) do(operation, arn, version, value string) (answer map[string]any, code string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done[operation]++
	s, ok := m.secrets[arn]
	if !ok {
		return nil, "ResourceNotFoundException"
	}
	answer = map[string]any{"ARN": arn}
	switch operation {
	case "GetSecretValue":
		if s.current == "" {
			return nil, "ResourceNotFoundException"
		}
		answer["VersionId"], answer["SecretString"] = s.current, s.values[s.current]
		answer["CreatedDate"] = float64(s.stored.UnixMilli()) / 1000
	case "DescribeSecret":
		stages := map[string][]string{}
		for id := range s.values {
			stages[id] = []string{map[bool]string{true: "AWSCURRENT", false: "AWSPREVIOUS"}[id == s.current]}
		}
		answer["VersionIdsToStages"] = stages
	case "PutSecretValue":
		if len(version) < 32 || len(version) > 64 || value == "" {
			return nil, "InvalidParameterException"
		}
		if before, ok := s.values[version]; ok && before != value {
			return nil, "ResourceExistsException"
		}
		s.put(version, value)
		answer["VersionId"] = version
	default:
		return nil, "InvalidRequestException"
	}
	return answer, ""
}
