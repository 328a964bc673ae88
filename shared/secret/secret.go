// Package secret reads AWS Secrets Manager.
package secret

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
)

// timeout limits one read, with its repetitions.
const timeout = 3 * time.Second

// IsARN says whether s is the ARN of a secret, and not a secret itself.
func IsARN(s string) bool {
	return strings.HasPrefix(s, "arn:") && strings.Contains(s, ":secretsmanager:")
}

// Get reads the current string of the secret with that ARN, in the region that
// the ARN names, with the credentials that the environment has. What fails for the
// moment it tries again, for a few seconds at most. No error holds the secret.
func Get(ctx context.Context, arn string) (string, error) {
	part := strings.Split(arn, ":")
	if !IsARN(arn) || len(part) < 7 {
		return "", errors.New("not the ARN of a secret")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	options := secretsmanager.Options{
		Region: part[3],
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{
				AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
				SessionToken: os.Getenv("AWS_SESSION_TOKEN"), Source: "environment",
			}, nil
		}),
	}
	if endpoint := os.Getenv("AWS_ENDPOINT_URL_SECRETS_MANAGER"); endpoint != "" { // the SDKs' variable
		options.BaseEndpoint = &endpoint
	}
	client := secretsmanager.New(options)
	out, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &arn})
	switch {
	case err != nil:
		return "", fmt.Errorf("read %s: %w", arn, err)
	case out.SecretString == nil:
		return "", fmt.Errorf("read %s: it is binary", arn)
	}
	return *out.SecretString, nil
}
