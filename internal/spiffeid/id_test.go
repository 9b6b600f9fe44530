package spiffeid_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/spiffeid"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, trustDomain, path string }{
		{"spiffe://cluster.local", "cluster.local", ""},
		{"spiffe://cluster.local/ns/coffee-shop/sa/order", "cluster.local", "/ns/coffee-shop/sa/order"},
		{"spiffe://a/b", "a", "/b"},
		{"spiffe://a-b_c.9/A.b-c_9", "a-b_c.9", "/A.b-c_9"},
		{"spiffe://10.0.0.1/x", "10.0.0.1", "/x"},
		{"spiffe://a/...", "a", "/..."},
		{"spiffe://a/.x", "a", "/.x"},
		{"spiffe://" + strings.Repeat("a", 255) + "/x", strings.Repeat("a", 255), "/x"},
		{"spiffe://a/" + strings.Repeat("x", 2048-11), "a", "/" + strings.Repeat("x", 2048-11)},
	} {
		id, err := spiffeid.Parse(c.text)
		if err != nil || id.String() != c.text || id.TrustDomain() != c.trustDomain || id.Path() != c.path || id.IsZero() {
			t.Errorf("%.100s: %q %q %q, %v", c.text, id, id.TrustDomain(), id.Path(), err)
		}
	}
	for _, text := range []string{
		"", "spiffe:", "spiffe://", "spiffe:///x", "/x", "http://a/x", "SPIFFE://a/x", "Spiffe://a/x", " spiffe://a/x", "spiffe://a/x ",
		"spiffe://A/x", "spiffe://a:80/x", "spiffe://u@a/x", "spiffe://[::1]/x", "spiffe://a%41/x", "spiffe://a,b/x", "spiffe://ä/x",
		"spiffe://.a/x", "spiffe://a./x", "spiffe://a..b/x", "spiffe://.", "spiffe://...",
		"spiffe://a/", "spiffe://a//x", "spiffe://a/x/", "spiffe://a/x//y", "spiffe://a/.", "spiffe://a/..", "spiffe://a/../x", "spiffe://a/x/./y",
		"spiffe://a/x?q", "spiffe://a/x#f", "spiffe://a/%41", "spiffe://a/x,spiffe://a/y", "spiffe://a/x\x00", "spiffe://a/x\n", "spiffe://a/ä",
		"spiffe://a/\xff", "spiffe://a?q", "spiffe://a#f",
		"spiffe://" + strings.Repeat("a", 256) + "/x", "spiffe://a/" + strings.Repeat("x", 2048-10),
	} {
		if id, err := spiffeid.Parse(text); !errors.Is(err, spiffeid.ErrInvalid) || !id.IsZero() {
			t.Errorf("%.100q: %q, %v", text, id, err)
		}
	}
}

// TestEveryByte: in trust domain and path, exactly the grammar's characters (SPIFFE-ID §2.1, §2.2).
func TestEveryByte(t *testing.T) {
	t.Parallel()
	const lower, digits, upper, marks = "abcdefghijklmnopqrstuvwxyz", "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", ".-_"
	for b := range 256 {
		c := string([]byte{byte(b)})
		if _, err := spiffeid.Parse("spiffe://a" + c + "a/x"); (err == nil) != (strings.Contains(lower+digits+marks, c) || c == "/") {
			t.Errorf("byte %#x in a trust domain: %v", b, err)
		}
		if _, err := spiffeid.Parse("spiffe://a/x" + c + "x"); (err == nil) != (strings.Contains(lower+digits+upper+marks, c) || c == "/") {
			t.Errorf("byte %#x in a path: %v", b, err)
		}
	}
}

func TestTrustDomain(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"cluster.local", "spiffe://cluster.local"} {
		if id, err := spiffeid.TrustDomain(text); err != nil || id.String() != "spiffe://cluster.local" {
			t.Errorf("%s: %s, %v", text, id, err)
		}
	}
	for _, text := range []string{"", "cluster.local/x", "spiffe://cluster.local/x", "Cluster.local", "corp.", "http://a"} {
		if id, err := spiffeid.TrustDomain(text); err == nil || !id.IsZero() {
			t.Errorf("%q: %s", text, id)
		}
	}
}

func TestWorkload(t *testing.T) {
	t.Parallel()
	id, err := spiffeid.Workload("cluster.local", "coffee-shop", "order")
	if err != nil || id.String() != "spiffe://cluster.local/ns/coffee-shop/sa/order" {
		t.Errorf("%s, %v", id, err)
	}
	if namespace, account, ok := id.Account(); !ok || namespace != "coffee-shop" || account != "order" {
		t.Errorf("%s %s %v", namespace, account, ok)
	}
	for _, c := range [][3]string{
		{"", "a", "b"}, {"td", "", "b"}, {"td", "a", ""}, {"td", "a/sa/x", "b"}, {"td", "a", "b/c"}, {"td/x", "a", "b"}, {"td", "..", "b"},
		{"td", "a,b", "c"}, {"x,istiod.istio-system.svc,y", "a", "b"}, {"td", "a", "b\x00"}, {"td", "%61", "b"},
	} {
		if id, err := spiffeid.Workload(c[0], c[1], c[2]); err == nil || !id.IsZero() {
			t.Errorf("%q: %s", c, id)
		}
	}
	for _, text := range []string{"spiffe://td", "spiffe://td/ns/a", "spiffe://td/ns/a/sa/b/c", "spiffe://td/sa/a/ns/b", "spiffe://td/x/a/sa/b"} {
		id, err := spiffeid.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, ok := id.Account(); ok {
			t.Errorf("%s is a service account", text)
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	var id spiffeid.ID
	if err := id.UnmarshalText([]byte("spiffe://a/x")); err != nil || id.Path() != "/x" {
		t.Errorf("%s, %v", id, err)
	}
	if err := id.UnmarshalText([]byte("spiffe://a/../x")); err == nil || id.Path() != "/x" {
		t.Errorf("an error changed the value: %s, %v", id, err)
	}
	if err := id.UnmarshalText(nil); err != nil || !id.IsZero() || id.TrustDomain() != "" || id.Path() != "" {
		t.Errorf("%s, %v", id, err)
	}
	if text, err := id.MarshalText(); err != nil || len(text) != 0 {
		t.Errorf("%q, %v", text, err)
	}
}

// FuzzParse: an error leaves the zero value; what parses prints as it was, is equal to itself parsed again, and means
// the same to net/url, which certificates go through.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"spiffe://cluster.local/ns/a/sa/b", "spiffe://a", "spiffe://a/../b", "spiffe://a,b/c", "spiffe://a/\x00", "SPIFFE://a/b", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := spiffeid.Parse(s)
		if err != nil {
			if !id.IsZero() || !errors.Is(err, spiffeid.ErrInvalid) {
				t.Errorf("%q: %s, %v", s, id, err)
			}
			return
		}
		again, err := spiffeid.Parse(id.String())
		if err != nil || again != id || id.String() != s || "spiffe://"+id.TrustDomain()+id.Path() != s {
			t.Errorf("%q: %s, %s, %v", s, id, again, err)
		}
		u, err := url.Parse(s)
		if err != nil || u.String() != s || u.Host != id.TrustDomain() || u.Path != id.Path() {
			t.Errorf("%q is %v to net/url, %v", s, u, err)
		}
	})
}
