//go:build pkcs11 && cgo

package pkcs11_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/writ-auth/writ/ca/pkcs11"
	"github.com/writ-auth/writ/internal/testkit"
)

// token makes a SoftHSM token with one key in it, made here and imported.
func token(t *testing.T, key any) pkcs11.Config {
	t.Helper()
	dir := t.TempDir()
	hsm, err := testkit.NewSoftHSM(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", hsm.Conf)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := hsm.Import(t.Context(), path, "issuer", "01"); err != nil {
		t.Fatal(err)
	}
	return pkcs11.Config{Module: hsm.Module, Token: hsm.Token, Label: "issuer", PIN: []byte(hsm.PIN)}
}

// TestSign: what the device signs verifies with the key that was put in, from many callers at once.
func TestSign(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, private := range map[string]crypto.Signer{"P-256": p256, "P-384": p384, "RSA": rsaKey} {
		t.Run(name, func(t *testing.T) {
			key, err := pkcs11.Open(token(t, private))
			if err != nil {
				t.Fatal(err)
			}
			if public, ok := private.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
				t.Errorf("the device has key %v", key.Public())
			}
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					sum := sha256.Sum256([]byte{byte(i)})
					signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
					if err != nil {
						t.Error(err)
						return
					}
					ok := false
					switch public := private.Public().(type) {
					case *ecdsa.PublicKey:
						ok = ecdsa.VerifyASN1(public, sum[:], signature)
					case *rsa.PublicKey:
						ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], signature) == nil
					}
					if !ok {
						t.Error("the signature does not verify")
					}
				})
			}
			wg.Wait()
			if _, err := key.Sign(rand.Reader, []byte("not a digest"), crypto.SHA256); err == nil {
				t.Error("signed what is no digest")
			}
			if err := errors.Join(key.Close(), key.Close()); err != nil {
				t.Error(err)
			}
			if _, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err == nil {
				t.Error("signed after it was closed")
			}
		})
	}
}

// TestOpenRefuses names what is missing.
func TestOpenRefuses(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := token(t, private)
	for name, c := range map[string]struct {
		change func(*pkcs11.Config)
		want   string
	}{
		"nothing":       {func(c *pkcs11.Config) { *c = pkcs11.Config{} }, "want a module"},
		"another file":  {func(c *pkcs11.Config) { c.Module = "/nonexistent.so" }, "cannot be loaded"},
		"another token": {func(c *pkcs11.Config) { c.Token = "other" }, "0 of"},
		"another PIN":   {func(c *pkcs11.Config) { c.PIN = []byte("4321") }, "log in"},
		"another label": {func(c *pkcs11.Config) { c.Label = "other" }, "0 private keys"},
	} {
		cfg := good
		c.change(&cfg)
		if _, err := pkcs11.Open(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
