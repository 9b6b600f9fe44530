package caserver_test

import (
	"crypto/x509"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/caserver"
)

// TestChain is identity §2.6: one certificate an element, leaf first, all roots in the last, a newline at each end.
func TestChain(t *testing.T) {
	b := newBench(t, options{})
	key := newKey(t)
	chain, err := b.do(t, call{bearer: b.orderToken(t), csr: csr(t, key, order)})
	if err != nil {
		t.Fatal(err)
	}
	if len(chain) != 3 {
		t.Fatalf("%d elements, want leaf, intermediate and roots", len(chain))
	}
	for i, element := range chain {
		if !strings.HasSuffix(element, "\n") {
			t.Errorf("element %d does not end in a newline", i)
		}
		if n := strings.Count(element, "BEGIN CERTIFICATE"); n != 1 {
			t.Errorf("element %d has %d certificates", i, n)
		}
	}
	if chain[2] != string(b.authority.Bundle().PEM) {
		t.Error("the last element is not the bundle")
	}
	leaf := leafOf(t, chain)
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != order {
		t.Errorf("URI names %v", leaf.URIs)
	}
	between := x509.NewCertPool()
	between.AppendCertsFromPEM([]byte(chain[1]))
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots(b.authority.Bundle()), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		t.Error(err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		t.Error("the certificate is for another key")
	}
}

// TestChainDuringRotation is surprise 3 of identity §11: both roots, in the one last element.
func TestChainDuringRotation(t *testing.T) {
	b := newBench(t, options{})
	for _, step := range []ca.Step{ca.StepPrepare, ca.StepDistribute} {
		if _, err := b.admin.Rotate(t.Context(), "test", caserver.RotateRequest{Step: step}); err != nil {
			t.Fatal(err)
		}
	}
	chain, err := b.do(t, call{bearer: b.orderToken(t)})
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(chain[len(chain)-1], "BEGIN CERTIFICATE"); len(chain) != 3 || n != 2 {
		t.Errorf("%d elements, %d roots in the last", len(chain), n)
	}
}

// TestCSRNamesDecideNothing is surprise 5 of identity §11: who asks is in the certificate, whatever the request says.
func TestCSRNamesDecideNothing(t *testing.T) {
	b := newBench(t, options{})
	for name, id := range map[string]string{"its own": order, "none": ""} {
		chain, err := b.do(t, call{bearer: b.orderToken(t), csr: csr(t, newKey(t), id)})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if leaf := leafOf(t, chain); leaf.URIs[0].String() != order || len(leaf.DNSNames)+len(leaf.IPAddresses) != 0 || leaf.IsCA {
			t.Errorf("%s: certificate %+v", name, leaf)
		}
	}
	_, err := b.do(t, call{bearer: b.orderToken(t), csr: csr(t, newKey(t), payment)})
	wantCode(t, err, codes.InvalidArgument)
}

// TestCSRCorpus sends every request of the corpus, by an authenticated caller (identity §2.4).
func TestCSRCorpus(t *testing.T) {
	b := newBench(t, options{})
	client := b.client(t, nil)
	files, err := filepath.Glob("../testdata/csr/*.csr")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v: run the test in the repository", len(files), err)
	}
	accepted := map[string]bool{"p256.csr": true, "newlabel.csr": true, "p384.csr": true, "rsa2048.csr": true}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			request := string(text)
			if request == "" {
				request = "\n"
			}
			// p256.csr and newlabel.csr may hold the same key: each is somebody's own.
			chain, err := call{bearer: b.token(t, "system:serviceaccount:csr:corpus"), csr: request}.send(t, client)
			if !accepted[name] {
				wantCode(t, err, codes.InvalidArgument)
				return
			}
			if err != nil {
				t.Fatalf("%v: %v", err, b.last(t).Err)
			}
			if leaf := leafOf(t, chain); leaf.URIs[0].String() != "spiffe://td.test/ns/csr/sa/corpus" {
				t.Errorf("names %v", leaf.URIs)
			}
		})
	}
}

// TestLifetime is identity §2.5, and surprises 10 to 12 of §11.
func TestLifetime(t *testing.T) {
	b := newBench(t, options{})
	client := b.client(t, nil)
	for _, test := range []struct {
		name    string
		seconds int64
		want    time.Duration
		rule    string
	}{
		{"not asked for", 0, time.Hour, ca.TTLDefault},
		{"negative", -1, time.Hour, ca.TTLDefault},
		{"as istio-agent asks", 86400, 24 * time.Hour, ca.TTLRequested},
		{"too long", 86401, 24 * time.Hour, ca.TTLMax},
		{"overflows when it becomes nanoseconds", 9_223_372_037, 24 * time.Hour, ca.TTLMax},
		{"2^62", 1 << 62, 24 * time.Hour, ca.TTLMax},
		{"the longest there is", math.MaxInt64, 24 * time.Hour, ca.TTLMax},
		{"the most negative", math.MinInt64, time.Hour, ca.TTLDefault},
		{"too short", 1, time.Minute, ca.TTLMin},
	} {
		t.Run(test.name, func(t *testing.T) {
			var header metadata.MD
			chain, err := call{bearer: b.orderToken(t), seconds: test.seconds}.send(t, client, grpc.Header(&header))
			if err != nil {
				t.Fatal(err)
			}
			leaf := leafOf(t, chain)
			if got := leaf.NotAfter.Sub(b.now()); got > test.want || got < test.want-10*time.Second {
				t.Errorf("it lives for %v, want %v", got, test.want)
			}
			if back := b.now().Sub(leaf.NotBefore); back < 2*time.Minute || back > 2*time.Minute+10*time.Second {
				t.Errorf("backdated by %v", back)
			}
			if got := header.Get("writ-ttl-rule"); len(got) != 1 || got[0] != test.rule {
				t.Errorf("the answer says %v set the lifetime, want %s", got, test.rule)
			}
			if got := header.Get("writ-not-after"); len(got) != 1 || got[0] != leaf.NotAfter.Format(time.RFC3339) {
				t.Errorf("the answer says it ends at %v", got)
			}
		})
	}
	if !strings.Contains(b.logged.text(), "ttl_rule=max") {
		t.Error("the log does not say what set the lifetime")
	}
}

func TestCertSigner(t *testing.T) {
	b := newBench(t, options{})
	client := b.client(t, nil)
	for _, test := range []struct {
		name  string
		value any
		want  codes.Code
		ttl   time.Duration
	}{
		{"empty, as istio-agent sends it", "", codes.OK, 24 * time.Hour},
		{"null", nil, codes.OK, 24 * time.Hour},
		{"configured", "short", codes.OK, 5 * time.Minute},
		{"unknown", "clusterissuers.cert-manager.io/other", codes.InvalidArgument, 0},
		{"not a string", 1.0, codes.InvalidArgument, 0},
		{"a list", []any{"short"}, codes.InvalidArgument, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			chain, err := call{
				bearer: b.orderToken(t), seconds: 86400, metadata: map[string]any{"CertSigner": test.value, "ClusterID": "c1", "WorkloadIP": "10.0.0.1"},
			}.send(t, client)
			if test.want != codes.OK {
				wantCode(t, err, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := leafOf(t, chain).NotAfter.Sub(b.now()); got > test.ttl || got < test.ttl-10*time.Second {
				t.Errorf("lifetime %v, want %v", got, test.ttl)
			}
		})
	}
}

func TestRequestSizes(t *testing.T) {
	b := newBench(t, options{})
	good := csr(t, newKey(t), "")
	_, err := b.do(t, call{bearer: b.orderToken(t), csr: good + strings.Repeat("\n", 17<<10)})
	wantCode(t, err, codes.InvalidArgument)
	_, err = b.do(t, call{bearer: b.orderToken(t), csr: good + strings.Repeat("\n", 257<<10)})
	wantCode(t, err, codes.ResourceExhausted) // the transport's answer: it was never read
}
