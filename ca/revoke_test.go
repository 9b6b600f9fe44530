package ca_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/testkit/memstore"
)

// revokedSerials lists what all CRLs list.
func revokedSerials(tb testing.TB, b *bench) map[ca.Serial]int {
	tb.Helper()
	out := map[ca.Serial]int{}
	rest := b.CRLs().PEM
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			tb.Fatal(err)
		}
		for _, e := range list.RevokedCertificateEntries {
			s, ok := ca.SerialOf(e.SerialNumber)
			if !ok {
				tb.Errorf("impossible serial number %x", e.SerialNumber)
			}
			out[s] = e.ReasonCode
		}
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	const other = order + "-other"
	one, two, three := b.issue(t, order, 0), b.issue(t, order, 0), b.issue(t, other, 0)
	ctx := t.Context()
	if len(b.CRLs().List) != 1 || len(revokedSerials(t, b)) != 0 {
		t.Errorf("before: %d CRLs with %v, want an empty one", len(b.CRLs().List), revokedSerials(t, b))
	}
	number := b.CRLs().List[0].Number

	// One certificate.
	if err := b.Revoke(ctx, ca.Revocation{Serial: one.Serial, Reason: "keyCompromise", By: "test"}); err != nil {
		t.Fatal(err)
	}
	if got := revokedSerials(t, b); len(got) != 1 || got[one.Serial] != 1 || b.CRLs().List[0].Number <= number {
		t.Errorf("CRL %d lists %v", b.CRLs().List[0].Number, got)
	}
	if !b.Deny().Serial(one.Serial) || b.Deny().Serial(two.Serial) || b.Deny().ID(order) {
		t.Error("the deny list has more or less than the certificate")
	}
	b.issue(t, order, 0) // the identity may have another

	// An identity: everything it holds, and nothing new.
	ap := b.approve(t, other, 0)
	if err := b.Revoke(ctx, ca.Revocation{ID: mustID(t, other), By: "test"}); err != nil {
		t.Fatal(err)
	}
	if got := revokedSerials(t, b); len(got) != 2 || !has(got, three.Serial) {
		t.Errorf("the CRL lists %v", got)
	}
	if _, err := b.Issue(ctx, ap); !errors.Is(err, ca.ErrRevoked) {
		t.Errorf("issued for a revoked identity: %v", err)
	}
	if err := b.Unrevoke(ctx, ca.Revocation{ID: mustID(t, other), By: "test"}); err != nil {
		t.Fatal(err)
	}
	b.issue(t, other, 0)
	if got := revokedSerials(t, b); len(got) != 1 {
		t.Errorf("after lifting, the CRL lists %v", got)
	}

	// A key.
	key := newKey(t)
	hash, err := ca.KeyHash(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	request := ca.ApprovalRequest{Profile: b.profile, Caller: "test:key"}
	first, err := ca.Approve(mustID(t, order), newCSR(t, key), request)
	if err != nil {
		t.Fatal(err)
	}
	withKey, err := b.Issue(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ca.Approve(mustID(t, order), newCSR(t, key), request)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Revoke(ctx, ca.Revocation{KeyHash: hash, By: "test"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Issue(ctx, again); !errors.Is(err, ca.ErrRevoked) || !b.Deny().Key(hash) || !has(revokedSerials(t, b), withKey.Serial) {
		t.Errorf("revoked key: %v, %v", err, revokedSerials(t, b))
	}

	// All of it survives a restart, and is forgotten a while after the certificates' end.
	b = b.reopen(t)
	if len(revokedSerials(t, b)) != 2 || !b.Deny().Serial(one.Serial) || b.Deny().Len() != 2 {
		t.Errorf("after a restart: %v", revokedSerials(t, b))
	}
	b.clock.advance(time.Hour + 5*time.Minute)
	if err := b.Maintain(ctx); err != nil || len(revokedSerials(t, b)) != 2 {
		t.Errorf("within the skew: %v, %v", revokedSerials(t, b), err)
	}
	b.clock.advance(10 * time.Minute)
	if err := b.Maintain(ctx); err != nil || len(revokedSerials(t, b)) != 0 || !b.Deny().Key(hash) || b.Deny().Serial(one.Serial) {
		t.Errorf("after the skew: %v, %v", revokedSerials(t, b), err)
	}
}

func has(m map[ca.Serial]int, s ca.Serial) bool {
	_, found := m[s]
	return found
}

func TestRevokeRefuses(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	issued := b.issue(t, order, 0)
	intermediate, ok := ca.SerialOf(b.Status().Signer.SerialNumber)
	if !ok {
		t.Fatal("the intermediate has an impossible serial number")
	}
	for _, reason := range []string{"boredom", "certificateHold", "keycompromise"} {
		err := b.Revoke(t.Context(), ca.Revocation{Serial: issued.Serial, Reason: reason, By: "test"})
		wrong, ok := errors.AsType[*ca.ReasonError](err)
		if !ok || !errors.Is(err, ca.ErrReason) || wrong.Reason != reason || !strings.Contains(err.Error(), "keyCompromise") {
			t.Errorf("reason %q: %v, want the accepted ones", reason, err)
		}
	}
	for _, reason := range append(ca.RevocationReasons(), "") {
		if err := ca.CheckReason(reason); err != nil {
			t.Errorf("reason %q: %v", reason, err)
		}
	}
	for name, r := range map[string]ca.Revocation{
		"nothing":               {By: "test"},
		"nobody":                {Serial: issued.Serial},
		"two things":            {Serial: issued.Serial, ID: mustID(t, order), By: "test"},
		"an unknown reason":     {Serial: issued.Serial, Reason: "boredom", By: "test"},
		"a hold":                {Serial: issued.Serial, Reason: "certificateHold", By: "test"},
		"an unknown serial":     {Serial: ca.Serial{1, 2, 3}, By: "test"},
		"the intermediate":      {Serial: intermediate, By: "test"},
		"a foreign identity":    {ID: mustID(t, "spiffe://other.local/x"), By: "test"},
		"the authority":         {ID: mustID(t, "spiffe://cluster.local"), By: "test"},
		"a store that is full":  {ID: mustID(t, order), By: "full"},
		"a store that forgets?": {ID: mustID(t, order), By: "after"},
	} {
		b.store.Inject(func(op string) memstore.Fault {
			switch {
			case op == "Revoke" && r.By == "full":
				return memstore.Fault{Before: errDisk}
			case op == "Revoke" && r.By == "after":
				return memstore.Fault{After: errDisk}
			}
			return memstore.Fault{}
		})
		if err := b.Revoke(t.Context(), r); err == nil {
			t.Errorf("revoked %s", name)
		}
		b.store.Inject(nil)
	}
	if err := b.Unrevoke(t.Context(), ca.Revocation{Serial: issued.Serial, By: "test"}); err == nil {
		t.Error("lifted the revocation of a certificate")
	}
	// What was recorded although nobody learnt acts from the next round on.
	if err := b.Maintain(t.Context()); err != nil || !b.Deny().ID(order) {
		t.Errorf("a revocation in the store is not in force: %v", err)
	}
}

// TestCRL is identity §9: for every issuer, numbered, without a distribution point, and renewed at half of its life.
func TestCRL(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	crl := func() *x509.RevocationList {
		t.Helper()
		list, err := x509.ParseRevocationList(b.CRLs().List[0].DER)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	first := crl()
	if err := first.CheckSignatureFrom(b.Status().Signer); err != nil {
		t.Error(err)
	}
	if first.Number.Int64() != b.clock.now().UnixMicro() || !first.NextUpdate.Equal(b.clock.now().Add(24*time.Hour)) || first.ThisUpdate.After(b.clock.now()) {
		t.Errorf("CRL %v from %s to %s", first.Number, first.ThisUpdate, first.NextUpdate)
	}
	for _, e := range first.Extensions {
		if e.Id.String() == "2.5.29.28" {
			t.Error("the CRL has an issuing distribution point")
		}
	}
	b.clock.advance(11 * time.Hour)
	set := b.CRLs()
	if err := b.Maintain(t.Context()); err != nil || b.CRLs() != set {
		t.Errorf("a new CRL although nothing changed: %v", err)
	}
	b.clock.advance(2 * time.Hour)
	if err := b.Maintain(t.Context()); err != nil || crl().Number.Cmp(first.Number) <= 0 || !crl().NextUpdate.After(first.NextUpdate) {
		t.Errorf("CRL %v until %s, %v", crl().Number, crl().NextUpdate, err)
	}
	second := crl()
	b = b.reopen(t)
	if crl().Number.Cmp(second.Number) <= 0 {
		t.Errorf("CRL %v after a restart, %v before", crl().Number, second.Number)
	}
	// A number is never used for two CRLs, whatever the store does.
	for _, fault := range []memstore.Fault{{Before: errDisk}, {After: errDisk}} {
		b.clock.advance(13 * time.Hour)
		b.store.Inject(func(op string) memstore.Fault {
			if strings.HasPrefix(op, "Put ca/crl/") {
				return fault
			}
			return memstore.Fault{}
		})
		before := b.CRLs()
		if err := b.Maintain(t.Context()); err != nil || !alarmed(b.Authority, ca.AlarmCRL) || fault.Before != nil && b.CRLs() != before {
			t.Errorf("%+v: %v, alarms %v", fault, err, b.Status().Alarms)
		}
		b.store.Inject(nil)
		if err := b.Maintain(t.Context()); err != nil || crl().Number.Int64() <= before.List[0].Number || alarmed(b.Authority, ca.AlarmCRL) {
			t.Errorf("%+v: CRL %v, %v", fault, crl().Number, err)
		}
	}
}

// TestCRLWithOpenSSL: openssl accepts what is not revoked and refuses what is.
func TestCRLWithOpenSSL(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatalf("this test needs openssl on PATH: apt-get install openssl, brew install openssl, or the like: %v", err)
	}
	b := newAuthority(t, func(c *ca.Config) { c.Now = time.Now })
	good, bad := b.issue(t, order, 0), b.issue(t, order, 0)
	if err := b.Revoke(t.Context(), ca.Revocation{Serial: bad.Serial, By: "test"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"good": good.Chain[0], "bad": bad.Chain[0], "between": good.Chain[1], "roots": good.Chain[2], "crl": string(b.CRLs().PEM),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, ok := range map[string]bool{"good": true, "bad": false} {
		cmd := exec.CommandContext(t.Context(), path, "verify", "-crl_check", "-CRLfile", "crl", "-CAfile", "roots", "-untrusted", "between", name)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if (err == nil) != ok || !ok && !bytes.Contains(out, []byte("revoked")) {
			t.Errorf("openssl verify of the %s certificate: %v\n%s", name, err, out)
		}
	}
}

// TestDenyListIsCheap: it is asked for every request.
func TestDenyListIsCheap(t *testing.T) {
	b := newAuthority(t)
	issued := b.issue(t, order, 0)
	if err := b.Revoke(t.Context(), ca.Revocation{Serial: issued.Serial, By: "test"}); err != nil {
		t.Fatal(err)
	}
	deny, hash := b.Deny(), [32]byte{1}
	if n := testing.AllocsPerRun(100, func() {
		_ = deny.ID(order)
		_ = deny.Serial(issued.Serial)
		_ = deny.Key(hash)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var none ca.DenyList
	if none.ID(order) || none.Serial(issued.Serial) || none.Key(hash) || none.Len() != 0 {
		t.Error("an empty list denies")
	}
}
