package ca_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	mathrand "math/rand/v2"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
)

// BenchmarkIssue measures a certificate from its request, PEM to PEM, with the ledger in memory, beside what a program
// would do that parses the request, checks its signature and calls x509.CreateCertificate with a fresh template. The
// three take turns in one run, and what counts is CPU time, so that a busy machine changes none of the ratios:
//
//	vs-plain            with lint and self-check, to be at most 0.90
//	vs-plain-unexamined without them, to be at most 0.60
func BenchmarkIssue(b *testing.B) {
	a := newAuthority(b)
	csr, id := newCSR(b, newKey(b), order), mustID(b, order)
	request := ca.ApprovalRequest{Profile: a.profile, Caller: "test:bench"}
	plain := newPlain(b)
	issue := func(issue func(context.Context, *ca.Approval) (*ca.Issued, error)) func() {
		return func() {
			ap, err := ca.Approve(id, csr, request)
			if err == nil {
				_, err = issue(b.Context(), ap)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	programs := []func(){issue(a.Issue), issue(a.IssueUnexamined), func() { plain.issue(b, csr) }}
	spent := make([]time.Duration, len(programs))
	const turn = 20
	n := 0
	for b.Loop() {
		n++
		// In random order: garbage is collected in whoever's turn it falls into.
		for _, p := range mathrand.Perm(len(programs)) {
			spent[p] += cpu(func() {
				for range turn {
					programs[p]()
				}
			})
		}
	}
	ours, unexamined, theirs := spent[0], spent[1], spent[2]
	per := func(d time.Duration) float64 { return float64(d) / float64(n*turn) }
	b.ReportMetric(per(ours), "cpu-ns/cert")
	b.ReportMetric(per(theirs), "cpu-ns/plain")
	b.ReportMetric(float64(ours)/float64(theirs), "vs-plain")
	b.ReportMetric(float64(unexamined)/float64(theirs), "vs-plain-unexamined")
	b.ReportMetric(0, "ns/op") // a turn of all three says nothing
}

// cpu is the CPU time that f takes, garbage collection included.
func cpu(f func()) time.Duration {
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before) // cannot fail with these arguments
	f()
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	return time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
}

// plain is the program that writ is compared with.
type plain struct {
	key    *ecdsa.PrivateKey
	issuer *x509.Certificate
	roots  string
}

func newPlain(tb testing.TB) *plain {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "plain"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	return &plain{key, parse(tb, der), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (p *plain) issue(tb testing.TB, csr []byte) []string {
	block, _ := pem.Decode(csr)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	if err := request.CheckSignature(); err != nil {
		tb.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		tb.Fatal(err)
	}
	uri, err := url.Parse(order)
	if err != nil {
		tb.Fatal(err)
	}
	keyID := sha256.Sum256(request.RawSubjectPublicKeyInfo)
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, NotBefore: now.Add(-2 * time.Minute), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, SubjectKeyId: keyID[:20], URIs: []*url.URL{uri},
	}, p.issuer, request.PublicKey, p.key)
	if err != nil {
		tb.Fatal(err)
	}
	return []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), p.roots}
}
