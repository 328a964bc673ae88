package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/flovyn/promises/shared/gateway"
)

// A Handler serves one operation. A direct invoke names its tenant and its promise. It returns JSON, or an error whose type is the
// code of a problem.
func ExampleHandler_Invoke() {
	h := &gateway.Handler{
		Operation: gateway.Resolve, Store: settling{}, MaxValueBytes: 1 << 20, Timeout: time.Second,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	answer, err := h.Invoke(context.Background(), []byte(`{"tenant":"acme","key":"stripe:ch_abc123","value":{"status":"paid"}}`))
	fmt.Println(string(answer), err)

	_, err = h.Invoke(context.Background(), []byte(`{"tenant":"acme","key":"stripe:ch_abc123","Value":1}`))
	var problem messages.InvokeResponse_Error
	fmt.Println(errors.As(err, &problem), problem.Type)
	// Output:
	// {"outcome":"settled","state":"resolved","promiseId":"01000000-0000-0000-0000-000000000000","resolved":true,"alreadyResolved":false} <nil>
	// true unknown_field
}
