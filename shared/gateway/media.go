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

// maxBody is the most that a compressed body may decompress to: what Lambda takes
// of a plain one.
const maxBody = 6 << 20

// charsets are the encodings of JSON, and ASCII, which is a part of UTF-8.
var charsets = []string{"", "utf-8", "utf8", "us-ascii", "ascii"}

// isJSON reports whether a Content-Type header declares JSON in UTF-8: application/json
// or a type that ends in +json, with any parameters. Where a client or a proxy has
// sent the header twice, API Gateway joins the two by a comma: each of them must
// declare it. An empty header declares nothing and is accepted, as a missing one is.
func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	return declares(contentType, func(media string, params map[string]string) bool {
		return (media == "application/json" || strings.HasSuffix(media, "+json")) &&
			slices.Contains(charsets, strings.ToLower(params["charset"]))
	})
}

// isForm reports whether a Content-Type header declares a form, however sent twice.
func isForm(contentType string) bool {
	return strings.Trim(contentType, ", ") != "" && declares(contentType, func(media string, _ map[string]string) bool {
		return media == "application/x-www-form-urlencoded"
	})
}

// declares reports whether each type that a Content-Type header declares is one of
// those asked for.
func declares(contentType string, is func(media string, params map[string]string) bool) bool {
	types := []string{contentType}
	if !strings.Contains(contentType, `"`) { // where a comma may be part of a parameter
		types = strings.Split(contentType, ",")
	}
	for _, one := range types {
		if strings.TrimSpace(one) == "" {
			continue
		}
		media, params, err := mime.ParseMediaType(one)
		if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) || !is(media, params) {
			return false
		}
	}
	return true
}

// decompress replaces a body that is compressed with gzip by what it decompresses
// to. The bytes decide, not the header: proxies decompress a body and leave the
// header, or the reverse. Every other compression is refused with
// CodeUnsupportedMediaType.
//
// It stops at maxBody with CodeValueTooLarge, so that a small body which
// decompresses to gigabytes costs no more than a large plain one. Its caller first
// checks who calls.
func (ev *event) decompress() error {
	if !bytes.HasPrefix(ev.body, []byte{0x1f, 0x8b}) { // no JSON text, and no UTF-8, begins like this
		switch strings.ToLower(strings.TrimSpace(ev.contentEncoding)) {
		case "", "identity", "gzip", "x-gzip":
			return nil
		}
		if len(ev.body) == 0 {
			return nil
		}
		return promise.Fail(promise.CodeUnsupportedMediaType,
			"The content-encoding header says that the body is compressed. Send it uncompressed, or compressed with gzip.")
	}
	r, err := gzip.NewReader(bytes.NewReader(ev.body))
	if err == nil {
		ev.body, err = io.ReadAll(io.LimitReader(r, maxBody+1))
	}
	switch {
	case len(ev.body) > maxBody:
		return promise.Fail(promise.CodeValueTooLarge,
			"The compressed body may have at most "+strconv.Itoa(maxBody)+" bytes once it is decompressed.")
	case err != nil:
		return promise.Fail(promise.CodeMalformedJSON,
			"The body begins like one that is compressed with gzip, and cannot be decompressed. Send it again, or uncompressed.")
	}
	return nil
}
