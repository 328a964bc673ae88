package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var networkFacts = []fact{
	{"the subnets are in the zones that are set, else in the account's first two", func(t *testing.T, tmpl template) {
		var zones []string
		for _, r := range tmpl.ofType("AWS::EC2::Subnet") {
			zones = append(zones, text(t, r.Properties["AvailabilityZone"]))
		}
		if tmpl.settings["zones"] == "" {
			require.ElementsMatch(t, []string{`{"Fn::Select":[0,{"Fn::GetAZs":""}]}`, `{"Fn::Select":[1,{"Fn::GetAZs":""}]}`}, zones)
		} else {
			require.ElementsMatch(t, strings.Split(tmpl.settings["zones"], ","), strings.Split(strings.ReplaceAll(strings.Join(zones, ","), `"`, ""), ","))
		}
	}},
	{"the VPC has two endpoints, each with a policy", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::EC2::VPCEndpoint") {
			require.NotEmpty(t, r.Properties["PolicyDocument"])
		}
		require.Len(t, tmpl.ofType("AWS::EC2::VPCEndpoint"), 2)
	}},
}
