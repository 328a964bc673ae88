package telemetry_test

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/flovyn/promises/shared/telemetry"
)

// CloudWatch Logs turns the line into the metric PromisesExpired with the dimension Function.
func ExampleMetrics_Count() {
	var line strings.Builder
	telemetry.NewMetrics(&line, "expire-promises").Count("PromisesExpired", 3)

	fmt.Print(regexp.MustCompile(`"Timestamp":\d+`).ReplaceAllString(line.String(), `"Timestamp":0`))
	// Output:
	// {"Function":"expire-promises","PromisesExpired":3,"_aws":{"Timestamp":0,"CloudWatchMetrics":[{"Namespace":"Promises","Dimensions":[["Function"]],"Metrics":[{"Name":"PromisesExpired","Unit":"Count"}]}]}}
}
