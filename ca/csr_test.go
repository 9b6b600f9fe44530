package ca_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/writ-auth/writ/ca"
)

// TestCorpus holds every request of the corpus to its answer (identity §2.4, column "ours").
func TestCorpus(t *testing.T) {
	t.Parallel()
	const accept = ca.Reason("")
	want := map[string]ca.Reason{
		"p256.csr": accept, "newlabel.csr": accept, "p384.csr": accept, "rsa2048.csr": accept,
		"p521.csr": ca.ReasonKeyAlgorithm, "ed25519.csr": ca.ReasonKeyAlgorithm, "p224.csr": ca.ReasonKeyAlgorithm,
		"k256.csr": ca.ReasonKeyAlgorithm, "dsa.csr": ca.ReasonKeyAlgorithm, "ed448.csr": ca.ReasonKeyAlgorithm,
		"rsa512.csr": ca.ReasonKeySize, "rsa1024.csr": ca.ReasonKeySize, "rsa8192.csr": ca.ReasonKeySize, "rsae3.csr": ca.ReasonKeySize,
		"rsamd5.csr": ca.ReasonSignatureAlgorithm, "rsasha1.csr": ca.ReasonSignatureAlgorithm, "rsapss.csr": ca.ReasonSignatureAlgorithm,
		"badsig.csr": ca.ReasonSignature, "evil.csr": ca.ReasonExtension,
		"garbage.csr": ca.ReasonFraming, "twoblocks.csr": ca.ReasonFraming, "wronglabel.csr": ca.ReasonFraming, "empty.csr": ca.ReasonFraming,
	}
	files, err := filepath.Glob("testdata/csr/*.csr")
	if err != nil || len(files) != len(want) {
		t.Fatalf("%d requests, %v, want %d", len(files), err, len(want))
	}
	on := map[string]bool{"p521.csr": true, "ed25519.csr": true}
	usual, wide := newProfile(t, ca.ProfileConfig{}), newProfile(t, ca.ProfileConfig{AllowP521: true, AllowEd25519: true})
	for _, file := range files {
		name := filepath.Base(file)
		csr, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, name, csr, usual, want[name])
		if on[name] {
			expect(t, name+", switched on", csr, wide, accept)
		} else {
			expect(t, name+", everything switched on", csr, wide, want[name])
		}
	}
}

func expect(t *testing.T, name string, csr []byte, p *ca.Profile, want ca.Reason) {
	t.Helper()
	ap, err := ca.Approve(mustID(t, order), csr, ca.ApprovalRequest{Profile: p, Caller: "test:corpus"})
	var refused *ca.CSRError
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: refused: %v", name, err)
	case want != "" && err == nil:
		t.Errorf("%s: approved for %s, want it refused: %s", name, ap.ID(), want)
	case want != "" && (!errors.Is(err, ca.ErrCSR) || !errors.As(err, &refused) || refused.Reason != want):
		t.Errorf("%s: %v, want reason %s", name, err, want)
	}
}
