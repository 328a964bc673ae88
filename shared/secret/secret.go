// Package secret reads and writes AWS Secrets Manager.
package secret

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go"
)

// timeout limits one call, with its repetitions.
const timeout = 3 * time.Second

// IsARN says whether s is the ARN of a secret, and not a secret itself.
func IsARN(s string) bool {
	return strings.HasPrefix(s, "arn:") && strings.Contains(s, ":secretsmanager:")
}

// Get reads the current string of the secret with that ARN, in the region that
// the ARN names, with the credentials that the environment has. What fails for the
// moment it tries again, for a few seconds at most. No error holds the secret.
func Get(ctx context.Context, arn string) (string, error) {
	client, err := clientOf(arn)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &arn})
	switch {
	case err != nil:
		return "", fmt.Errorf("read %s: %w", arn, err)
	case out.SecretString == nil:
		return "", fmt.Errorf("read %s: it is binary", arn)
	}
	return *out.SecretString, nil
}

// Version returns the id of the secret's current version, or "" if the secret is
// empty. It reads no secret.
func Version(ctx context.Context, arn string) (string, error) {
	client, err := clientOf(arn)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, err := client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &arn})
	if err != nil {
		return "", fmt.Errorf("describe %s: %w", arn, err)
	}
	for version, stages := range out.VersionIdsToStages {
		if slices.Contains(stages, currentStage) {
			return version, nil
		}
	}
	return "", nil
}

// currentStage is Secrets Manager's label of the version that Get reads.
const currentStage = "AWSCURRENT"

// Put makes value the current version of the secret, under an id of 32 to 64
// characters. It can be repeated with the same value. No error holds the secret.
func Put(ctx context.Context, arn, version, value string) error {
	client, err := clientOf(arn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err = client.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
		SecretId: &arn, ClientRequestToken: &version, SecretString: &value,
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", arn, err)
	}
	return nil
}

// Denied reports whether Secrets Manager denied a call. A policy that was changed
// a moment ago may not be in effect yet.
func Denied(err error) bool {
	failure, ok := errors.AsType[smithy.APIError](err)
	return ok && failure.ErrorCode() == "AccessDeniedException"
}

func clientOf(arn string) (*secretsmanager.Client, error) {
	part := strings.Split(arn, ":")
	if !IsARN(arn) || len(part) < 7 {
		return nil, errors.New("not the ARN of a secret")
	}
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
	return secretsmanager.New(options), nil
}
