// Command odd is a Lambda function for tests. Its event selects what it does, including every kind of failure.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

type event struct {
	Do   string `json:"do"`
	Ms   int    `json:"ms"`
	Size int    `json:"size"`
	Text string `json:"text"`
}

func (e event) sleep() { time.Sleep(time.Duration(e.Ms) * time.Millisecond) }

type typed struct{}

func (*typed) Error() string { return "typed" }

// A failingReader is a response that fails at its end.
type failingReader struct{ r io.Reader }

func (b failingReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = &typed{}
	}
	return n, err
}

func handle(ctx context.Context, e event) (any, error) {
	switch e.Do {
	case "sleep":
		if e.Text != "" {
			if err := os.WriteFile(e.Text, nil, 0o600); err != nil {
				return nil, err
			}
		}
		e.sleep()
	case "until SIGTERM", "ignore SIGTERM":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		if err := os.WriteFile(e.Text, nil, 0o600); err != nil {
			return nil, err
		}
		<-signals
		if e.Do == "ignore SIGTERM" {
			time.Sleep(time.Hour)
		}
	case "crash":
		os.Exit(e.Size)
	case "panic":
		panic("oh no")
	case "error":
		return nil, messages.InvokeResponse_Error{Type: "key_conflict", Message: e.Text}
	case "plain error":
		return nil, errors.New(e.Text)
	case "big":
		return strings.Repeat("x", e.Size-2), nil
	case "stream":
		return strings.NewReader(e.Text), nil
	case "break off":
		return failingReader{strings.NewReader(e.Text)}, nil
	case "print":
		fmt.Println(e.Text)
		fmt.Fprint(os.Stderr, "and no newline")
	case "environ":
		dir, err := os.Getwd()
		return map[string]any{"environ": os.Environ(), "dir": dir}, err
	case "flaky":
		if _, err := os.Stat(e.Text); err != nil {
			if err := os.WriteFile(e.Text, nil, 0o600); err != nil {
				return nil, err
			}
			return nil, errors.New("the first time fails")
		}
		return nil, os.WriteFile(e.Text, []byte(requestID(ctx)), 0o600)
	}
	deadline, _ := ctx.Deadline()
	lc, _ := lambdacontext.FromContext(ctx)
	return map[string]any{
		"pid":       os.Getpid(),
		"requestId": lc.AwsRequestID,
		"arn":       lc.InvokedFunctionArn,
		"client":    lc.ClientContext.Custom,
		"leftMs":    time.Until(deadline).Milliseconds(),
		"traceId":   ctx.Value("x-amzn-trace-id"),
	}, nil
}

func requestID(ctx context.Context) string {
	lc, _ := lambdacontext.FromContext(ctx)
	return lc.AwsRequestID
}

func main() {
	if code := os.Getenv("RAW"); code != "" {
		raw(code)
		return
	}
	switch os.Getenv("INIT") {
	case "exit":
		fmt.Println("cannot start")
		os.Exit(3)
	case "slow":
		time.Sleep(time.Hour)
	case "error":
		os.Stdout.WriteString(call("POST", "init/error", `{"errorType":"Config.Missing","errorMessage":"DATABASE_URL is not set"}`).body)
		os.Exit(1)
	}
	if os.Getenv("RETURN") == "event" {
		lambda.Start(func(_ context.Context, raw jsonText) (jsonText, error) { return raw, nil })
	}
	lambda.Start(handle)
}

type jsonText []byte

func (t jsonText) MarshalJSON() ([]byte, error)  { return t, nil }
func (t *jsonText) UnmarshalJSON(b []byte) error { *t = bytes.Clone(b); return nil }

type answer struct {
	status int
	id     string
	body   string
}

func call(method, path, body string) answer {
	req, err := http.NewRequest(method, "http://"+os.Getenv("AWS_LAMBDA_RUNTIME_API")+"/2018-06-01/runtime/"+path, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		os.Exit(1) // the runner has exited
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header.Get("Lambda-Runtime-Aws-Request-Id"), string(b)}
}

// raw is a runtime that makes invalid calls of the Runtime API and returns their
// statuses as its response.
func raw(string) {
	for {
		next := call("GET", "invocation/next", "")
		seen := []string{
			fmt.Sprint(call("POST", "invocation/other-id/response", "1").status),
			fmt.Sprint(call("POST", "invocation/other-id/error", "1").status),
			fmt.Sprint(call("POST", "init/error", "{}").status),
			fmt.Sprint(call("GET", "invocation/next", "").status),
			fmt.Sprint(call("GET", "nothing", "").status),
		}
		first := call("POST", "invocation/"+next.id+"/response", `"`+strings.Join(seen, " ")+`"`)
		again := call("POST", "invocation/"+next.id+"/response", `1`)
		fmt.Print(first.status, " ", strings.TrimSpace(first.body), " ", again.status, "\n")
	}
}
