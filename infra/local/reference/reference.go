// Package reference serves the description of the HTTP API, and a page that shows it.
// A reader can send calls to the API from that page.
package reference

import (
	"bytes"
	"embed"
	"net/http"
	"time"

	swaggerui "github.com/swaggo/files/v2"
)

const (
	// DescriptionPath is the path of the description, in YAML.
	DescriptionPath = "/openapi.yaml"
	// PagePath is the path of the page.
	PagePath = "/reference/"
)

// policy lets the page load files from this server and call it, and nothing else. The
// style sheet of Swagger UI has images in data URLs, and its scripts set styles.
const policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

//go:embed index.html start.js
var files embed.FS

// pages maps the paths of the page to their files.
var pages = map[string]http.Handler{
	PagePath:                          serveFile("index.html"),
	PagePath + "start.js":             serveFile("start.js"),
	PagePath + "swagger-ui-bundle.js": serveLibrary("swagger-ui-bundle.js"),
	PagePath + "swagger-ui.css":       serveLibrary("swagger-ui.css"),
	PagePath + "favicon-32x32.png":    serveLibrary("favicon-32x32.png"),
}

func serveFile(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, name) })
}

func serveLibrary(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, swaggerui.FS, name) })
}

// With answers GET and HEAD requests for the description and for the page, and passes
// all others to api.
func With(description []byte, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			api.ServeHTTP(w, r)
			return
		}
		page, ok := pages[r.URL.Path]
		switch {
		case r.URL.Path == DescriptionPath:
			w.Header().Set("Content-Type", "application/yaml; charset=utf-8")
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(description))
		case ok:
			w.Header().Set("Content-Security-Policy", policy)
			w.Header().Set("X-Content-Type-Options", "nosniff")
			page.ServeHTTP(w, r)
		case r.URL.Path+"/" == PagePath:
			http.Redirect(w, r, PagePath, http.StatusMovedPermanently)
		default:
			api.ServeHTTP(w, r)
		}
	})
}
