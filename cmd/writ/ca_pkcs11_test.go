//go:build pkcs11 && cgo

package main

import (
	"crypto/elliptic"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/testkit"
)

const pkcs11CA = `
state: ./state
ca: {listen: "127.0.0.1:0", plugged: {dir: ./ca, pkcs11: {module: %q, token: %s, label: %s, pin_file: %s}}}
admin: unix:admin.sock
diagnostics: 127.0.0.1:0
`

// TestPKCS11 signs with a key that only a device has, from the configuration on.
func TestPKCS11(t *testing.T) {
	u, dir := newUpstream(t), t.TempDir()
	hsm, err := testkit.NewSoftHSM(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", hsm.Conf)
	key := newECDSA(t, elliptic.P256())
	files := u.issuerOf("from the device", key)
	write(t, dir, map[string]string{"issuer.pem": files["ca/tls.key"], "other.pem": newUpstream(t).issuer("other")["ca/tls.key"]})
	for id, label := range map[string]string{"01": "issuer", "02": "other"} {
		if err := hsm.Import(t.Context(), filepath.Join(dir, label+".pem"), label, id); err != nil {
			t.Fatal(err)
		}
	}
	delete(files, "ca/tls.key") // nobody has it but the device
	files["pin"], files["wrong"] = hsm.PIN+"\n", "4321\n"
	config := func(token, label, pin string) string { return fmt.Sprintf(pkcs11CA, hsm.Module, token, label, pin) }

	for _, tt := range []struct{ name, config, want string }{
		{"another PIN", config(hsm.Token, "issuer", "wrong"), "log in"},
		{"another token", config("tokn", "issuer", "pin"), "hold a token of that label"},
		{"no such key", config(hsm.Token, "signer", "pin"), `0 private keys have the label "signer"`},
		{"another key", config(hsm.Token, "other", "pin"), "the key is not that of the certificate"},
	} {
		bad := write(t, t.TempDir(), files)
		write(t, bad, map[string]string{"writ.yaml": tt.config})
		if out, _ := command(t, bad, 3, "validate", "-c", "writ.yaml"); !strings.Contains(out, tt.want) {
			t.Errorf("%s: validate says\n%s", tt.name, out)
		}
		if _, stderr := command(t, bad, 1, "serve", "-c", "writ.yaml"); !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: serve says\n%s", tt.name, stderr)
		}
	}

	p := serveCA(t, config(hsm.Token, "issuer", "pin"), files)
	command(t, p.dir, 0, "validate", "-c", "writ.yaml")
	p.join("order", orderID)
	p.renew(0, "order")
	p.issuedBy("order", "CN=from the device")
	if text, _ := command(t, p.dir, 0, "ca", "show", "-c", "writ.yaml"); !strings.Contains(text, `its key "issuer" in token "writ"`) || !strings.Contains(text, "signs with       from the device") {
		t.Errorf("writ ca show:\n%s", text)
	}
	// The next certificate for the same key is taken up, a key in a file or of another certificate is not.
	write(t, p.dir, map[string]string{"ca/tls.crt": u.issuerOf("from the device again", key)["ca/tls.crt"]})
	p.signal(syscall.SIGHUP)
	p.eventually("reloaded", func() error { return p.signsWith("CN=from the device again") })
	write(t, p.dir, map[string]string{"ca/tls.crt": u.issuer("of another key")["ca/tls.crt"]})
	p.signal(syscall.SIGHUP)
	p.eventually("refused", func() error { return p.signsWith("CN=from the device again", ca.AlarmReload) })
	p.renew(0, "order")
	p.stop()
	if _, err := os.Stat(filepath.Join(p.dir, "ca", "tls.key")); err == nil {
		t.Error("there is a key file")
	}
}
