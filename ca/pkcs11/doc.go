// Package pkcs11 signs with a key that a device keeps: an HSM, a smart card, a TPM, by way of its PKCS#11 module. Start
// with [Open]; the [Key] it returns is a crypto.Signer, such as ca.Config.PluggedKey takes. The private key never leaves
// the device.
//
// Modules are C libraries. The package does its work in programs that are built with cgo and the tag pkcs11; in others
// Open says so.
package pkcs11

import (
	"crypto"
	"errors"
)

// Config names a key.
type Config struct {
	Module string // path of the module, such as /usr/lib/softhsm/libsofthsm2.so
	Token  string // label of the token
	Label  string // label of the key, CKA_LABEL, on both its halves
	PIN    []byte // of the token's user
	// Sessions is how many signatures may be made at once, default 4.
	Sessions int
}

// ErrNotBuilt says that this program cannot load modules.
var ErrNotBuilt = errors.New("this program was built without PKCS#11: build it with CGO_ENABLED=1 go build -tags pkcs11")

var _ crypto.Signer = (*Key)(nil)
