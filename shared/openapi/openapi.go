// Package openapi has the description of the HTTP API, in OpenAPI 3.0.
package openapi

import _ "embed" // the description

// YAML is the description. No caller may change it.
//
//go:embed openapi.yaml
var YAML []byte
