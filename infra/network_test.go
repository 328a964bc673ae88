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
	{"the VPC has endpoints of S3, Secrets Manager and Lambda, each with a policy", func(t *testing.T, tmpl template) {
		var services []string
		for _, r := range tmpl.ofType("AWS::EC2::VPCEndpoint") {
			require.NotEmpty(t, r.Properties["PolicyDocument"])
			services = append(services, joined(r.Properties["ServiceName"]))
		}
		require.ElementsMatch(t, []string{"com.amazonaws.{Region}.s3", "com.amazonaws.{Region}.secretsmanager", "com.amazonaws.{Region}.lambda"}, services)
	}},
}
