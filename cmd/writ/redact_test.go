package main

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/policy"
)

func TestShownHeader(t *testing.T) {
	t.Parallel()
	const token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
	for _, tt := range []struct{ name, value, want string }{
		{"authorization", "Bearer " + token, "Bearer (53 bytes withheld)"},
		{"authorization", "Basic YTpi", "Basic (4 bytes withheld)"},
		{"authorization", token, "(53 bytes withheld)"},
		{"authorization", "pass word!", "pass (5 bytes withheld)"},
		{"authorization", "p@ss word", "(9 bytes withheld)"},
		{"cookie", "a=b", "(3 bytes withheld)"},
		{"x-jwt", token, "(token withheld)"},
		{"x-two", token + "," + token[:30], "(token withheld),(token withheld)"},
		{"x-spaced", `"ewogICJhbGciOiAibm9uZSIKfQ.e30.x"`, `"(token withheld)"`},
		{"x-plain", "everyday words, even-long-ones", "everyday words, even-long-ones"},
	} {
		if got := shownHeader(tt.name, tt.value); got != tt.want {
			t.Errorf("%s: %s: %q, want %q", tt.name, tt.value, got, tt.want)
		}
	}
}

// TestWithholdTokens leaves what the request holds as it is: a trace may share its memory.
func TestWithholdTokens(t *testing.T) {
	t.Parallel()
	got := []string{"eyJhbGciOiJub25lIn0.e30.c2ln"}
	c := policy.ConditionTrace{Got: got, Why: `"` + got[0] + `" is not "x"`}
	trace := &policy.Trace{Policies: []policy.PolicyTrace{{Rules: []policy.RuleTrace{{
		When: []policy.ConditionTrace{c}, From: []policy.ClauseTrace{{Conditions: []policy.ConditionTrace{c}}},
		To: []policy.ClauseTrace{{Conditions: []policy.ConditionTrace{c}}},
	}}}}}
	withholdTokens(trace)
	rule := trace.Policies[0].Rules[0]
	for _, c := range []policy.ConditionTrace{rule.When[0], rule.From[0].Conditions[0], rule.To[0].Conditions[0]} {
		if c.Got[0] != withheld || c.Why != `"(token withheld)" is not "x"` {
			t.Errorf("%+v", c)
		}
	}
	if got[0] == withheld {
		t.Error("the request was changed")
	}
}

// FuzzInspect demands that no token makes inspect panic, or show its signature or a character that steers a terminal.
func FuzzInspect(f *testing.F) {
	f.Add([]byte(`{"alg":"ES256","kid":"1"}`), []byte(`{"iss":"a","exp":1785589200,"nbf":1e400,"iat":-1}`), []byte("signature-of-a-token"))
	f.Add([]byte(`{"alg":"none"}`), []byte("{\"\x1b[2J\":\"\\u001b[2J\\u202e\"}"), []byte("signature-of-a-token"))
	f.Add([]byte(`null`), []byte(`[]`), []byte(nil))
	f.Fuzz(func(t *testing.T, header, payload, signature []byte) {
		encode := base64.RawURLEncoding.EncodeToString
		last := encode(signature)
		report, err := inspect(t.Context(), encode(header)+"."+encode(payload)+"."+last, time.Unix(1785585600, 0))
		if err != nil {
			if report != nil || len(payload) > 8 && strings.Contains(err.Error(), string(payload)) {
				t.Fatalf("%v and a report, or the error quotes the token", err)
			}
			return
		}
		var out bytes.Buffer
		if err := report.write(&out, palette{}); err != nil {
			t.Fatal(err)
		}
		if text := out.String(); len(last) > 20 && !strings.Contains(string(header)+string(payload), last) && strings.Contains(text, last) {
			t.Errorf("the signature is shown:\n%s", text)
		}
		if i := bytes.IndexAny(out.Bytes(), "\x1b\x00\r\u202e"); i >= 0 {
			t.Errorf("an unprintable character at %d: %q", i, out.String())
		}
	})
}
