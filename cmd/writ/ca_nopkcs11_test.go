//go:build !pkcs11 || !cgo

package main

import (
	"strings"
	"testing"
)

// TestWithoutPKCS11 says what to do about a key in a device that this program cannot use.
func TestWithoutPKCS11(t *testing.T) {
	t.Parallel()
	files := newUpstream(t).issuer("issuer")
	delete(files, "ca/tls.key")
	files["pin"] = "1234"
	files["writ.yaml"] = strings.Replace(caOnly, `"127.0.0.1:0"`, `"127.0.0.1:0", plugged: {dir: ca, pkcs11: {module: m.so, token: t, label: l, pin_file: pin}}`, 1)
	dir := write(t, t.TempDir(), files)
	const want = "this program was built without PKCS#11: build it with CGO_ENABLED=1 go build -tags pkcs11"
	if out, _ := command(t, dir, 3, "validate", "-c", "writ.yaml"); !strings.Contains(out, "ca.plugged: pkcs11: "+want) {
		t.Errorf("validate:\n%s", out)
	}
	if _, stderr := command(t, dir, 1, "serve", "-c", "writ.yaml"); !strings.Contains(stderr, "ca.plugged.pkcs11: "+want) {
		t.Errorf("serve:\n%s", stderr)
	}
}
