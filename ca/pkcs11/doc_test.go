//go:build !pkcs11 || !cgo

package pkcs11_test

import (
	"errors"
	"testing"

	"github.com/writ-auth/writ/ca/pkcs11"
)

func TestNotBuilt(t *testing.T) {
	t.Parallel()
	if key, err := pkcs11.Open(pkcs11.Config{}); key != nil || !errors.Is(err, pkcs11.ErrNotBuilt) {
		t.Errorf("%v, %v", key, err)
	}
}
