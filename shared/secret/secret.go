// Package secret reads and writes secrets in AWS Secrets Manager.
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

// timeout limits one call, including its retries.
const timeout = 3 * time.Second

// IsARN reports whether s is the ARN of a secret, as opposed to a secret itself.
func IsARN(s string) bool {
	return strings.HasPrefix(s, "arn:") && strings.Contains(s, ":secretsmanager:")
}

// Get returns the current value of the secret with the given ARN. It calls the region
// in the ARN with the credentials in the environment. It retries temporary failures
// for a few seconds. No error contains the secret.
func Get(ctx context.Context, arn string) (string, error) {
	value, _, err := GetDated(ctx, arn)
	return value, err
}

// GetDated works as Get. It also returns the time at which the value was stored.
func GetDated(ctx context.Context, arn string) (value string, stored time.Time, err error) {
	client, err := clientOf(arn)
	if err != nil {
		return "", stored, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &arn})
	switch {
	case err != nil:
		return "", stored, fmt.Errorf("read %s: %w", arn, err)
	case out.SecretString == nil:
		return "", stored, fmt.Errorf("read %s: the secret is binary; store it as a string", arn)
	}
	return *out.SecretString, aws.ToTime(out.CreatedDate), nil
}

// Version returns the id of the secret's current version, or "" if the secret is
// empty. It does not read the value.
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

// currentStage is Secrets Manager's label for the version that Get reads.
const currentStage = "AWSCURRENT"

// Put stores value as the current version of the secret. version is the new version's
// id, of 32 to 64 characters. A call may be repeated with the same value. No error
// contains the secret.
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

// Denied reports whether err means that Secrets Manager denied access. A recent change
// of the policy may not be in effect yet.
func Denied(err error) bool {
	failure, ok := errors.AsType[smithy.APIError](err)
	return ok && failure.ErrorCode() == "AccessDeniedException"
}

func clientOf(arn string) (*secretsmanager.Client, error) {
	part := strings.Split(arn, ":")
	if !IsARN(arn) || len(part) < 7 {
		return nil, errors.New("not the ARN of a secret in Secrets Manager")
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
