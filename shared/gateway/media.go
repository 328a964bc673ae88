package gateway

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"slices"
	"strconv"
	"strings"

	"github.com/flovyn/promises/shared/promise"
)

// maxBody bounds a decompressed body. It is Lambda's limit for a plain body, too.
const maxBody = 6 << 20

// charsets lists the charsets that JSON may declare. ASCII is a part of UTF-8.
var charsets = []string{"", "utf-8", "utf8", "us-ascii", "ascii"}

// isJSON reports whether a Content-Type header declares JSON in UTF-8: application/json
// or a type that ends in +json, with any parameters. API Gateway joins repeated
// headers by a comma; then each of them must declare JSON. An empty header is
// accepted, like a missing one.
func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	return declares(contentType, func(media string, params map[string]string) bool {
		return (media == "application/json" || strings.HasSuffix(media, "+json")) &&
			slices.Contains(charsets, strings.ToLower(params["charset"]))
	})
}

// isForm reports whether a Content-Type header declares a form. If API Gateway joined
// several headers, each of them must declare it.
func isForm(contentType string) bool {
	blank := strings.TrimSpace(strings.ReplaceAll(contentType, ",", "")) == ""
	return !blank && declares(contentType, func(media string, _ map[string]string) bool {
		return media == "application/x-www-form-urlencoded"
	})
}

// declares reports whether accept accepts each type that a Content-Type header
// declares.
func declares(contentType string, accept func(media string, params map[string]string) bool) bool {
	types := []string{contentType}
	if !strings.Contains(contentType, `"`) { // a quoted parameter may contain a comma
		types = strings.Split(contentType, ",")
	}
	for _, one := range types {
		if strings.TrimSpace(one) == "" {
			continue
		}
		media, params, err := mime.ParseMediaType(one)
		if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) || !accept(media, params) {
			return false
		}
	}
	return true
}

// decompress decompresses a gzip body. The body's first bytes decide, not the header:
// proxies decompress a body and leave the header, or the reverse. If the header
// declares another compression, decompress returns CodeUnsupportedMediaType.
//
// It stops at maxBody with CodeValueTooLarge, so that a small body that would
// decompress to gigabytes costs no more than a large plain body. The call must be
// authorized before.
func decompress(body []byte, contentEncoding string) ([]byte, error) {
	if !bytes.HasPrefix(body, []byte{0x1f, 0x8b}) { // no JSON text, and no UTF-8, begins like this
		switch strings.ToLower(strings.TrimSpace(contentEncoding)) {
		case "", "identity", "gzip", "x-gzip":
			return body, nil
		}
		if len(body) == 0 {
			return body, nil
		}
		return nil, promise.Fail(promise.CodeUnsupportedMediaType,
			"The content-encoding header declares a compressed body. Send the body uncompressed, or compressed with gzip.")
	}
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(r, maxBody+1))
	}
	switch {
	case len(body) > maxBody:
		return nil, promise.Fail(promise.CodeValueTooLarge,
			"The compressed body may have at most "+strconv.Itoa(maxBody)+" bytes once it is decompressed.")
	case err != nil:
		return nil, promise.Fail(promise.CodeMalformedJSON,
			"The body begins like gzip and cannot be decompressed. Send it again, or send it uncompressed.")
	}
	return body, nil
}

var errNotJSON = promise.Fail(promise.CodeUnsupportedMediaType,
	"The content-type header must be application/json, a type that ends in +json, or absent, with the charset utf-8 or without a charset.")
