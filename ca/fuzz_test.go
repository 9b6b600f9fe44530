package ca_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/writ-auth/writ/ca"
)

// FuzzApprove: no request makes Approve panic, an error leaves no approval and is an ErrCSR, and what is approved can be
// issued, self-check and all.
func FuzzApprove(f *testing.F) {
	files, err := filepath.Glob("testdata/csr/*.csr")
	if err != nil || len(files) == 0 {
		f.Fatalf("no requests to start from: %v", err)
	}
	for _, file := range files {
		csr, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(csr, false)
		if block, _ := pem.Decode(csr); block != nil {
			f.Add(block.Bytes, true)
		}
	}
	f.Add(newCSR(f, newKey(f), order), false)
	b := newAuthority(f)
	p := newProfile(f, ca.ProfileConfig{AllowP521: true, AllowEd25519: true})
	f.Fuzz(func(t *testing.T, csr []byte, der bool) {
		if der { // lets the fuzzer work on what is inside
			csr = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
		}
		ap, err := ca.Approve(mustID(t, order), csr, ca.ApprovalRequest{Profile: p, Caller: "test:fuzz"})
		if err != nil {
			if ap != nil || !errors.Is(err, ca.ErrCSR) {
				t.Errorf("approval %v with error %v", ap, err)
			}
			return
		}
		issued, err := b.Issue(t.Context(), ap)
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(t, issued.Chain, b.clock.now()); err != nil {
			t.Error(err)
		}
		if leaf := parse(t, issued.Certificate); leaf.URIs[0].String() != order || leaf.IsCA || !bytes.Equal(leaf.RawSubject, []byte{0x30, 0}) {
			t.Errorf("issued %v %s", leaf.URIs, leaf.Subject)
		}
	})
}
