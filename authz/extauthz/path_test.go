package extauthz_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// What Envoy with normalize_path never sends is refused, what it sends passes (authorization-policy §9.3, §12 row 28).
func TestPathHazard(t *testing.T) {
	tests := []struct{ path, want string }{
		{"/", ""}, {"", ""}, {"*", ""}, {"/a/b", ""},
		{"//admin", ""}, {"/a//b", ""},
		{"/x%2F..%2Fadmin", ""}, {"/x%2f..%2fadmin", ""}, {"/a%5Cb", ""}, // kept under BASE
		{"/...", ""}, {"/.../x", ""}, {"/.a", ""}, {"/a.", ""}, {"/a..b", ""}, {"/..a/", ""}, {"/.well-known/x", ""}, {"/x.html", ""},
		{"/%zz", ""}, {"/%", ""}, {"/a%2", ""}, {"/100%25", ""}, {"/a%20b", ""}, {"/%e4%bd%a0", ""}, {"/a;x=1", ""}, {"/%2", ""},
		{"/.", "segment"}, {"/..", "segment"}, {".", "segment"}, {"..", "segment"}, {"/./a", "segment"}, {"/a/../b", "segment"},
		{"/a/..", "segment"}, {"/a/.", "segment"}, {"//..//", "segment"},
		{"/%2e", "segment"}, {"/%2E/a", "segment"}, {"/a/%2e%2e/b", "segment"}, {"/a/.%2E/b", "segment"}, {"/a/%2e./b", "segment"},
		{`/a\b`, "backslash"}, {`\`, "backslash"}, {`/a/..\b`, "backslash"},
		{"/a\x00b", "NUL"}, {"/a%00b", "NUL"}, {"/a%00", "NUL"},
		{"/%61dmin", "letter or digit"}, {"/admi%6E", "letter or digit"}, {"/%5A", "letter or digit"}, {"/v%31", "letter or digit"},
	}
	for _, c := range tests {
		got := extauthz.PathHazard(c.path)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.path, got, c.want)
		}
		if got != "" && !strings.Contains(got, "normalize_path: true") {
			t.Errorf("%q: %q does not say what to configure", c.path, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		for _, c := range tests {
			extauthz.PathHazard(c.path)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0: clients choose the path", n)
	}
}

func TestPathModes(t *testing.T) {
	for path, base := range map[string]bool{
		"/a/../admin":        false,
		"/admin?next=/a/../": true, // the query is no path
		"/admin":             true,
		"/a/..?x":            false,
	} {
		raw := fromJSON(t, `{"attributes":{"request":{"http":{"method":"GET","path":"`+path+`"}}}}`)
		for mode, want := range map[extauthz.PathMode]bool{"": base, extauthz.PathsBase: base, extauthz.PathsNone: true} {
			var r policy.Request
			_, err := extauthz.DecodeRequest(raw, extauthz.Options{Paths: mode}, &r)
			if (err == nil) != want {
				t.Errorf("%s, mode %q: got %v", path, mode, err)
			}
			var refused *extauthz.RequestError
			if errors.As(err, &refused) && refused.Reason != authz.ReasonPathNotNormalized {
				t.Errorf("%s, mode %q: reason %s", path, mode, refused.Reason)
			}
		}
	}
}
