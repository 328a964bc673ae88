package delivery

import (
	"errors"
	"strings"
)

// CheckURL returns an error unless HTTPSSender would send to the URL, as far as that
// is known before its name is resolved. It refuses a fragment, too. loopback is
// HTTPSSender.Loopback. The error contains no part of the URL, which may hold a secret.
func CheckURL(address string, loopback bool) error {
	if strings.Contains(address, "#") {
		return errors.New("the destination's URL must not contain a fragment")
	}
	_, err := reach{loopback: loopback}.parse(address)
	return err
}
