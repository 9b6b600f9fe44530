package jwt_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writ-auth/writ/jwt"
)

// expectCached validates and says whether the signature was computed.
func expectCached(t *testing.T, v *jwt.Validator, in *jwt.Input, cached bool, reason jwt.Reason) {
	t.Helper()
	out := validate(v, in)
	if out.Reason != reason || (out.Cached > 0) != cached || cached && out.Verified != 0 {
		t.Errorf("%s, %d cached, %d verified; want %s, cached %v", out.Reason, out.Cached, out.Verified, reason, cached)
	}
	if (out.Token != nil) != (reason == jwt.Valid) {
		t.Errorf("%s with token %v", out.Reason, out.Token)
	}
}

func TestCacheChecksTimesOnEachUse(t *testing.T) {
	v := cachingValidator(jwt.NewCache(0, 0), jwt.Rule{Issuer: issuerA, Audiences: []string{"api"}})
	token := payloadToken(`{"iss":"` + issuerA + `","aud":"api","nbf":1000,"exp":1200}`)
	expectCached(t, v, at(bearer(token), 1100), false, jwt.Valid)
	expectCached(t, v, at(bearer(token), 1101), true, jwt.Valid)
	expectCached(t, v, at(bearer(token), 1260), true, jwt.Valid)
	expectCached(t, v, at(bearer(token), 1261), false, jwt.Expired)
	expectCached(t, v, at(bearer(token), 900), false, jwt.NotYetValid) // the clock was set back
	expectCached(t, v, at(bearer(token), 1100), false, jwt.Valid)
}

func TestCacheForgetsAfterFiveMinutes(t *testing.T) {
	v := cachingValidator(jwt.NewCache(0, 0), jwt.Rule{Issuer: issuerA})
	token := payloadToken(`{"iss":"` + issuerA + `"}`)
	expectCached(t, v, at(bearer(token), 1000), false, jwt.Valid)
	expectCached(t, v, at(bearer(token), 1300), true, jwt.Valid)
	expectCached(t, v, at(bearer(token), 1301), false, jwt.Valid)
}

func TestCacheKeepsNoFailure(t *testing.T) {
	cache := jwt.NewCache(0, 0)
	v := cachingValidator(cache, jwt.Rule{Issuer: issuerA})
	bad := forged(goodToken())
	for range 2 {
		expectCached(t, v, bearer(bad), false, jwt.SignatureInvalid)
	}
	expectCached(t, v, bearer("x"), false, jwt.Malformed)
	if cache.Len() != 0 || cache.Bytes() != 0 {
		t.Errorf("%d entries of %d bytes", cache.Len(), cache.Bytes())
	}
}

// TestCacheNeedsEveryByte has a good token in the cache and asks with ones that differ in a single place.
func TestCacheNeedsEveryByte(t *testing.T) {
	v := cachingValidator(jwt.NewCache(0, 0), jwt.Rule{Issuer: issuerA})
	good := goodToken()
	expectCached(t, v, bearer(good), false, jwt.Valid)
	for i := range good {
		c := byte('A')
		if good[i] == c {
			c = 'B'
		}
		if out := validate(v, bearer(good[:i]+string(c)+good[i+1:])); out.Token != nil || out.Cached != 0 {
			t.Fatalf("byte %d changed: %s, %d cached", i, out.Reason, out.Cached)
		}
	}
	expectCached(t, v, bearer(good), true, jwt.Valid)
}

func TestCacheEndsWithTheKeys(t *testing.T) {
	source := &fakeSource{keys: mustKeySet(keyFor("ES256"))}
	v := jwt.NewValidator([]jwt.Rule{{Issuer: issuerA, JWKSURI: "https://x"}}, func(jwt.Rule) jwt.Source { return source },
		jwt.Options{Cache: jwt.NewCache(0, 0)})
	in := bearer(goodToken())
	expectCached(t, v, in, false, jwt.Valid)
	expectCached(t, v, in, true, jwt.Valid)
	source.keys = mustKeySet(keyFor("ES256")) // fetched again, the same document
	expectCached(t, v, in, true, jwt.Valid)
	source.keys = mustKeySet(keyFor("ES256"), newTestKey("ES256").withKID("new"))
	expectCached(t, v, in, false, jwt.Valid)
	source.keys = mustKeySet(newTestKey("ES256")) // same kid, another key
	expectCached(t, v, in, false, jwt.SignatureInvalid)
	source.keys = nil
	expectCached(t, v, in, false, jwt.KeysUnavailable)
}

func TestCacheIsPerRule(t *testing.T) {
	cache := jwt.NewCache(0, 0)
	in := bearer(goodToken(`"aud":"api","scope":"x y","words":"x y"`))
	api := jwt.Rule{Issuer: issuerA, Audiences: []string{"api"}}
	expectCached(t, cachingValidator(cache, api), in, false, jwt.Valid)
	expectCached(t, cachingValidator(cache, api), in, true, jwt.Valid) // the next snapshot's validator
	expectCached(t, cachingValidator(cache, jwt.Rule{Issuer: issuerA, Audiences: []string{"web"}}), in, false, jwt.AudienceDenied)
	expectCached(t, cachingValidator(cache, jwt.Rule{Issuer: issuerB, Audiences: []string{"api"}}), in, false, jwt.IssuerUnknown)
	words := jwt.Rule{Issuer: issuerA, SpaceDelimitedClaims: []string{"words"}}
	expectCached(t, cachingValidator(cache, words), in, false, jwt.Valid)
	if got := validate(cachingValidator(cache, words), in).Token.Strings([]string{"words"}); len(got) != 2 {
		t.Errorf("words %q", got)
	}
	stranger := jwt.Rule{Issuer: issuerA, JWKS: keySetJSON(newTestKey("ES256"))}
	expectCached(t, cachingValidator(cache, stranger), in, false, jwt.SignatureInvalid)
}

func TestCacheWithSeveralRules(t *testing.T) {
	v := cachingValidator(jwt.NewCache(0, 0), jwt.Rule{Issuer: issuerA}, jwt.Rule{Issuer: issuerB})
	in := bearer(payloadToken(ofB))
	expectCached(t, v, in, false, jwt.Valid)
	expectCached(t, v, in, true, jwt.Valid)
}

func TestCacheIsBounded(t *testing.T) {
	for _, bound := range []struct {
		entries int
		bytes   int64
	}{{32, 0}, {1 << 12, 64 << 10}} {
		cache := jwt.NewCache(bound.entries, bound.bytes)
		v := cachingValidator(cache, jwt.Rule{Issuer: issuerA})
		for i := range 500 {
			token := payloadToken(fmt.Sprintf(`{"iss":%q,"sub":"%d"}`, issuerA, i))
			if out := validate(v, bearer(token)); out.Token == nil {
				t.Fatal(out.Reason)
			}
			if cache.Len() > bound.entries || bound.bytes > 0 && cache.Bytes() > bound.bytes {
				t.Fatalf("%d entries of %d bytes for %+v", cache.Len(), cache.Bytes(), bound)
			}
		}
		if cache.Len() < 16 {
			t.Errorf("only %d entries for %+v", cache.Len(), bound)
		}
	}
}

// TestCacheIsSwept has entries that nobody asks for again leave with the traffic.
func TestCacheIsSwept(t *testing.T) {
	cache := jwt.NewCache(64, 0)
	v := cachingValidator(cache, jwt.Rule{Issuer: issuerA})
	for i := range 40 {
		validate(v, at(bearer(payloadToken(fmt.Sprintf(`{"iss":%q,"sub":"%d"}`, issuerA, i))), 1000))
	}
	for i := range 16 {
		validate(v, at(bearer(payloadToken(fmt.Sprintf(`{"iss":%q,"sub":"later %d"}`, issuerA, i))), 2000))
	}
	if cache.Len() > 16 {
		t.Errorf("%d entries, of which 16 can be found", cache.Len())
	}
}

func TestCacheSkipsLargeTokens(t *testing.T) {
	cache := jwt.NewCache(0, 0)
	v := cachingValidator(cache, jwt.Rule{Issuer: issuerA})
	in := bearer(goodToken(`"x":"` + strings.Repeat("x", 4096) + `"`))
	expectCached(t, v, in, false, jwt.Valid)
	expectCached(t, v, in, false, jwt.Valid)
	if cache.Len() != 0 {
		t.Errorf("%d entries", cache.Len())
	}
}

func TestCacheConcurrently(t *testing.T) {
	cache := jwt.NewCache(16, 0)
	source := &fakeSource{keys: mustKeySet(keyFor("ES256"))}
	v := jwt.NewValidator([]jwt.Rule{{Issuer: issuerA}}, func(jwt.Rule) jwt.Source { return source }, jwt.Options{Cache: cache})
	var tokens []string
	for i := range 40 {
		tokens = append(tokens, payloadToken(fmt.Sprintf(`{"iss":%q,"sub":"%d"}`, issuerA, i)))
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			var out jwt.Result
			for n := range 400 {
				i := (n*7 + g) % len(tokens)
				v.Validate(context.Background(), bearer(tokens[i]), &out)
				if identityOf(&out) != fmt.Sprint(i) {
					t.Errorf("token %d is of %q (%s)", i, identityOf(&out), out.Reason)
				}
			}
		})
	}
	wg.Wait()
	if n := cache.Len(); n > 16 || n < 0 || cache.Bytes() < 0 {
		t.Errorf("%d entries of %d bytes", n, cache.Bytes())
	}
}

// TestResultOutlivesTheRequest overwrites the buffer that a request's strings point into.
func TestResultOutlivesTheRequest(t *testing.T) {
	for _, cache := range []*jwt.Cache{nil, jwt.NewCache(0, 0)} {
		v := cachingValidator(cache, jwt.Rule{ID: "ns/r", Issuer: issuerA, OutputPayloadToHeader: "x-p",
			OutputClaimToHeaders: []jwt.OutputClaim{{Header: "x-c", Claim: "c"}}})
		good := goodToken(`"c":"value","aud":["a","b"]`)
		buffer := []byte("Bearer " + good + " https shop.example /p?access_token=" + strings.ReplaceAll(good, ".", "%2E"))
		view := func(from, to int) string { return viewOf(buffer[from:to]) }
		n := len("Bearer " + good)
		in := &jwt.Input{Headers: []jwt.Header{{Name: "authorization", Value: view(0, n)}}, Method: "GET", Scheme: view(n+1, n+6),
			Host: view(n+7, n+19), Path: view(n+20, len(buffer)), Now: testNow}
		out := validate(v, in)
		clear(buffer)
		if out.Token == nil || out.Token.Subject() != "alice" || out.Token.Issuer() != issuerA || out.Token.Payload() != strings.Split(good, ".")[1] ||
			out.Token.Strings([]string{"c"})[0] != "value" || strings.Join(out.Token.Audiences(), "") != "ab" || out.KeyID != "es256" {
			t.Errorf("%s: %q", out.Reason, out.Token.JSON())
		}
		for _, h := range out.SetHeaders {
			if strings.Contains(h.Value, "\x00") {
				t.Errorf("set %q", h)
			}
		}
		if cache != nil {
			expectCached(t, v, bearer(good), true, jwt.Valid)
		}
	}
}

func TestAllocations(t *testing.T) {
	v := cachingValidator(jwt.NewCache(0, 0), jwt.Rule{Issuer: issuerA, Audiences: []string{"api"}, OutputPayloadToHeader: "x-p",
		OutputClaimToHeaders: []jwt.OutputClaim{{Header: "x-sub", Claim: "sub"}}}, jwt.Rule{Issuer: issuerB})
	good := goodToken(`"aud":"https://api/"`)
	for name, in := range map[string]*jwt.Input{
		"no token":          request("accept", "*/*", "cookie", "a=b"),
		"another scheme":    request("authorization", "Basic abc"),
		"cached":            bearer(good),
		"cached, parameter": withPath(request(), "/?q=1&access_token="+strings.ReplaceAll(good, ".", "%2E")),
	} {
		var out jwt.Result
		if n := testing.AllocsPerRun(100, func() { v.Validate(context.Background(), in, &out) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if out.Status != 0 {
			t.Errorf("%s: %s", name, out.Reason)
		}
	}
	token := validate(v, bearer(good)).Token
	path := []string{"aud"}
	if n := testing.AllocsPerRun(100, func() { token.Strings(path) }); n != 0 {
		t.Errorf("Strings: %v allocations", n)
	}
}

// TestRefetch is request-authentication §6.4.
func TestRefetch(t *testing.T) {
	old, rotated := newTestKey("ES256").withKID("old"), newTestKey("ES256").withKID("new")
	in := bearer(rotated.sign("ES256", claimSet()))
	sourced := func(s jwt.Source) *jwt.Validator {
		return jwt.NewValidator([]jwt.Rule{{Issuer: issuerA, Audiences: []string{}, JWKSURI: "https://x"}}, func(jwt.Rule) jwt.Source { return s }, jwt.Options{})
	}
	for _, row := range []struct {
		name      string
		source    fakeSource
		in        *jwt.Input
		reason    jwt.Reason
		refetches int
	}{
		{"rotated", fakeSource{keys: mustKeySet(old), next: mustKeySet(old, rotated)}, in, jwt.Valid, 1},
		{"nothing newer", fakeSource{keys: mustKeySet(old)}, in, jwt.KeyUnknown, 1},
		{"first fetch", fakeSource{next: mustKeySet(rotated)}, in, jwt.Valid, 1},
		{"a key without kid may be meant", fakeSource{keys: mustKeySet(old.withKID(""))}, in, jwt.SignatureInvalid, 0},
		{"no kid", fakeSource{keys: mustKeySet(keyFor("RS256").withAlg("RS256"))}, bearer(rotated.withKID("").sign("ES256", claimSet())), jwt.KeyUnknown, 0},
		{"bad signature", fakeSource{keys: mustKeySet(rotated)}, bearer(forged(rotated.sign("ES256", claimSet()))), jwt.SignatureInvalid, 0},
		{"another issuer", fakeSource{keys: mustKeySet(old)}, bearer(rotated.sign("ES256", ofB)), jwt.IssuerUnknown, 0},
		{"expired", fakeSource{keys: mustKeySet(old)}, bearer(rotated.sign("ES256", `{"iss":"`+issuerA+`","exp":1}`)), jwt.Expired, 0},
		{"garbage", fakeSource{}, bearer("x.y.z"), jwt.HeaderEncoding, 0},
		{"no token", fakeSource{}, request(), jwt.Valid, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			out := validate(sourced(&row.source), row.in)
			if out.Reason != row.reason || row.source.refetches != row.refetches {
				t.Errorf("%s after %d refetches, want %s after %d", out.Reason, row.source.refetches, row.reason, row.refetches)
			}
		})
	}
	if out := validate(sourced(nil), in); out.Reason != jwt.KeysUnavailable {
		t.Errorf("no source: %s", out.Reason)
	}
}

// slowSource never has keys; a refetch ends with its context.
type slowSource struct{}

func (slowSource) Keys() *jwt.KeySet { return nil }
func (slowSource) Refetch(ctx context.Context) *jwt.KeySet {
	<-ctx.Done()
	return nil
}

func TestWaitIsBounded(t *testing.T) {
	v := jwt.NewValidator([]jwt.Rule{{Issuer: issuerA, JWKSURI: "https://x"}}, func(jwt.Rule) jwt.Source { return slowSource{} }, jwt.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	var out jwt.Result
	v.Validate(ctx, bearer(goodToken()), &out)
	if out.Reason != jwt.KeysUnavailable || out.Status != 401 {
		t.Errorf("%d %s", out.Status, out.Reason)
	}
}

// TestWaitLeavesTimeToAnswer: all waits of a request together take half of its time, so that whoever asked is still there
// for the answer.
func TestWaitLeavesTimeToAnswer(t *testing.T) {
	var rules []jwt.Rule
	in := request()
	for i := range 4 {
		name := fmt.Sprintf("x-%d", i)
		rules = append(rules, jwt.Rule{Issuer: issuerA, JWKSURI: "https://x", FromHeaders: []jwt.HeaderLocation{{Name: name}}})
		in.Headers = append(in.Headers, jwt.Header{Name: name, Value: goodToken()})
	}
	v := jwt.NewValidator(rules, func(jwt.Rule) jwt.Source { return slowSource{} }, jwt.Options{})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		var out jwt.Result
		v.Validate(ctx, in, &out)
		if took := time.Since(start); out.Reason != jwt.KeysUnavailable || took != 5*time.Second {
			t.Errorf("%s after %v, want it after 5s of 10s", out.Reason, took)
		}
	})
}
