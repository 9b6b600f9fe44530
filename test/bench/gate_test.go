package main

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// The gate: what a check costs must not creep up. Other work on the machine changes neither counts of allocations nor
// the fastest of many short turns by much, so those are what is bounded, times only as ratios to a floor that is measured
// in turns with them. Each bound leaves room: see what the tests log.

// gateServer makes the deciding part of writ serve for the corpus.
func gateServer(t *testing.T, c *corpus, cache *jwt.Cache) *extauthz.Server {
	t.Helper()
	store := policy.NewStore(policy.Mesh{})
	store.Update(policy.Decode("gate.yaml", []byte(c.documents())))
	server, err := extauthz.New(extauthz.Config{
		Snapshot: store.Load, Engine: &authz.Engine{Tokens: authz.Tokens{Cache: cache}}, Observe: func(*extauthz.Observation) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func gateCorpus(t *testing.T, rules int) *corpus {
	t.Helper()
	c, err := newCorpus(rules, 10)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestGateAllocations bounds what a check over the network allocates, gRPC's server and the asking client included. In our
// own code it is nothing, which tests of authz/extauthz, authz, policy and jwt state.
func TestGateAllocations(t *testing.T) {
	c := gateCorpus(t, 1000)
	checks := gateServer(t, c, jwt.NewCache(cachedTokens, 64<<20))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- checks.Serve(ctx, listener) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	l, err := newLoad(ctx, &server{name: "writ", address: listener.Addr().String(), pid: os.Getpid()}, c.questions, true)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const n = 4096
	if _, err := l.closed(n, 16); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := l.closed(n, 16); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	count, bytes := float64(after.Mallocs-before.Mallocs)/n, float64(after.TotalAlloc-before.TotalAlloc)/n
	t.Logf("%.1f allocations and %.0f bytes in a check", count, bytes)
	if count > maxAllocations || bytes > maxBytes {
		t.Errorf("a check takes %.1f allocations and %.0f bytes, want at most %d and %d", count, bytes, maxAllocations, maxBytes)
	}
}

// TestGateTimes bounds the time of a decision, from the bytes of a request, by the time that it takes to decode those
// bytes with Envoy's own types, and of one that verifies a token by that of the bare signature.
func TestGateTimes(t *testing.T) {
	few, many := gateCorpus(t, 10), gateCorpus(t, manyRules)
	cached := decide(t, many, jwt.NewCache(cachedTokens, 64<<20))
	for _, tc := range []struct {
		name  string
		ours  func()
		floor func()
		most  float64
	}{
		{"10,000 rules and a cached token / decoding with Envoy's types", cached, decode(t, many), maxOfDecoding},
		{"10,000 rules / 10", cached, decide(t, few, jwt.NewCache(cachedTokens, 64<<20)), 2.5},
		{"RS256 verified / the bare signature", decide(t, few, nil), verifyRaw(t, few), maxOfSignature},
	} {
		ratio := fastest(tc.ours, tc.floor)
		t.Logf("%s: %.2f", tc.name, ratio)
		if ratio > tc.most {
			t.Errorf("%s: %.2f, want at most %v", tc.name, ratio, tc.most)
		}
	}
}

// fastest divides the fastest of many short turns of each.
func fastest(ours, floor func()) float64 {
	const turns, calls = 200, 8
	best := [2]time.Duration{time.Hour, time.Hour}
	for range turns {
		for i, f := range [2]func(){ours, floor} {
			start := time.Now()
			for range calls {
				f()
			}
			best[i] = min(best[i], time.Since(start))
		}
	}
	return float64(best[0]) / float64(best[1])
}

func decide(t *testing.T, c *corpus, cache *jwt.Cache) func() {
	t.Helper()
	server, q := gateServer(t, c, cache), c.questions[0]
	return func() {
		if d := server.Decide(context.Background(), q.raw, nil); d.Allow != q.allowed {
			t.Fatal(d.Detail)
		}
	}
}

func decode(t *testing.T, c *corpus) func() {
	t.Helper()
	return func() {
		if err := proto.Unmarshal(c.questions[0].raw, new(authv3.CheckRequest)); err != nil {
			t.Fatal(err)
		}
	}
}

func verifyRaw(t *testing.T, c *corpus) func() {
	t.Helper()
	at := strings.LastIndexByte(c.tokens[0], '.')
	signature, err := base64.RawURLEncoding.DecodeString(c.tokens[0][at+1:])
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		digest := sha256.Sum256([]byte(c.tokens[0][:at]))
		if err := rsa.VerifyPKCS1v15(&c.key.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
			t.Fatal(err)
		}
	}
}
