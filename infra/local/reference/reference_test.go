package reference_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/reference"
	"github.com/flovyn/promises/shared/openapi"
	"github.com/flovyn/promises/shared/skip"
)

// serve serves the description, the page, and an API that answers 418.
func serve(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(reference.With(openapi.YAML, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	})))
	t.Cleanup(s.Close)
	return s
}

func send(t *testing.T, method, url string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}

func TestDescription(t *testing.T) {
	t.Parallel()
	s := serve(t)
	response, body := send(t, "GET", s.URL+reference.DescriptionPath)
	assert.Equal(t, 200, response.StatusCode)
	assert.Equal(t, "application/yaml; charset=utf-8", response.Header.Get("Content-Type"))
	assert.Equal(t, string(openapi.YAML), body)
}

func TestPage(t *testing.T) {
	t.Parallel()
	s := serve(t)
	response, page := send(t, "GET", s.URL+reference.PagePath)
	require.Equal(t, 200, response.StatusCode)
	files := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page, -1)
	require.Len(t, files, 5)
	for _, f := range append(files, []string{"", ""}) {
		path := f[1]
		if !strings.HasPrefix(path, "/") {
			path = reference.PagePath + path
		}
		response, _ := send(t, "GET", s.URL+path)
		assert.Equal(t, 200, response.StatusCode, path)
		if path != reference.DescriptionPath {
			assert.Contains(t, response.Header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'", path)
		}
	}
	response, _ = send(t, "GET", s.URL+strings.TrimSuffix(reference.PagePath, "/"))
	assert.Equal(t, 301, response.StatusCode)
	assert.Equal(t, reference.PagePath, response.Header.Get("Location"))
}

func TestOtherRequestsReachTheAPI(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, request := range []string{
		"POST " + reference.DescriptionPath, "POST " + reference.PagePath, "OPTIONS " + reference.PagePath, "GET /", "GET /api/tenants/demo/promises",
		"GET " + reference.PagePath + "index.html", "GET " + reference.PagePath + "swagger-ui.js", "GET " + reference.PagePath + "../openapi.yaml",
	} {
		method, path, _ := strings.Cut(request, " ")
		response, _ := send(t, method, s.URL+path)
		assert.Equal(t, 418, response.StatusCode, request)
	}
}

// TestPageInABrowser opens the page in a browser. The page's policy forbids other hosts, and the browser reports each violation of it.
func TestPageInABrowser(t *testing.T) {
	t.Parallel()
	skip.Without(t, "chromium", "which opens the page")
	s := serve(t)
	browser := exec.CommandContext(t.Context(), "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir="+t.TempDir(),
		"--enable-logging=stderr", "--virtual-time-budget=60000", "--dump-dom", s.URL+reference.PagePath)
	var log strings.Builder
	browser.Stderr = &log
	page, err := browser.Output()
	require.NoError(t, err, "%s", &log)
	assert.NotContains(t, log.String(), "CONSOLE", "the page wrote an error or violated its policy")
	operations := regexp.MustCompile(`(?m)^ +operationId: (\w+)`).FindAllStringSubmatch(string(openapi.YAML), -1)
	require.NotEmpty(t, operations)
	for _, o := range operations {
		assert.Contains(t, string(page), o[1]+`"`, "the page does not show this operation")
	}
}
