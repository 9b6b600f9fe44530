package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// curve is one table: how memory and cost grow with one thing.
type curve struct {
	head []string
	rows [][]string
}

func curves(ctx context.Context, dir, write string, tokens int) error {
	busy, err := loadAverage()
	if err != nil {
		return err
	}
	binary, err := testkit.BuildWrit(ctx, dir)
	if err != nil {
		return err
	}
	start := time.Now()
	var text strings.Builder
	for _, c := range []struct {
		name string
		draw func(ctx context.Context, dir, binary string) (*curve, error)
	}{
		{"rules", rulesCurve}, {"workloads", workloadsCurve}, {"streams", streamsCurve}, {"tokens", func(ctx context.Context, dir, binary string) (*curve, error) {
			return tokensCurve(ctx, dir, binary, tokens)
		}},
	} {
		fmt.Fprintln(os.Stderr, "measuring", c.name)
		drawn, err := c.draw(ctx, dir, binary)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		table := markdown(drawn.head, drawn.rows) + "\n"
		fmt.Fprint(os.Stderr, table)
		text.WriteString(table)
	}
	fmt.Fprintf(&text, "Measured on %s, with %s, in %s.\n", time.Now().Format(time.DateOnly), machine(ctx, busy, ""), time.Since(start).Round(time.Second))
	return publish(write, "bench-curves", text.String())
}

// ruled is a server with so many rules.
type ruled struct {
	*load

	rules        int
	ready, first time.Duration
	few, all     []question // of the ten callers that ask most, and of all of them
	ten, many    []float64  // CPU of a check of those, by round
}

// rulesCurve has all servers take turns. Cost is compared for as many callers: each has a token that is looked up, and
// memory that the processor's caches may hold or not.
func rulesCurve(ctx context.Context, dir, binary string) (*curve, error) {
	const rounds = 9
	var servers []*ruled
	for _, rules := range []int{10, 100, 1000, 10_000, 100_000} {
		s, err := startRuled(ctx, dir, binary, rules)
		if err != nil {
			return nil, fmt.Errorf("%d rules: %w", rules, err)
		}
		defer s.stop()
		defer s.Close()
		servers = append(servers, s)
	}
	for range rounds {
		for _, s := range servers {
			for _, part := range []struct {
				questions []question
				costs     *[]float64
			}{{s.few, &s.ten}, {s.all, &s.many}} {
				s.questions = part.questions
				cpu, err := s.closed(perRound, 16)
				if err != nil {
					return nil, fmt.Errorf("%d rules: %w", s.rules, err)
				}
				*part.costs = append(*part.costs, float64(cpu))
			}
		}
	}
	c := &curve{head: []string{
		"rules", "CPU of a check, ten callers / with 10 rules", fmt.Sprintf("%d callers / with 1,000 rules", manyCallers),
		"from start to ready, s", "CPU of the first check, ms", "resident, MiB", "resident at its highest, MiB",
	}}
	const thousand = 2 // the place of the least rules that are about as many callers
	for i, s := range servers {
		memory, err := memoryOf(s.pid)
		if err != nil {
			return nil, err
		}
		many := "–"
		if i >= thousand {
			many = ratios(s.many, servers[thousand].many).String()
		}
		c.rows = append(c.rows, append([]string{
			count(s.rules), ratios(s.ten, servers[0].ten).String(), many, figure(s.ready.Seconds()), figure(s.first.Seconds() * 1000),
		}, memory...))
	}
	return c, nil
}

// startRuled starts a server, and asks until it is as it will stay.
func startRuled(ctx context.Context, dir, binary string, rules int) (*ruled, error) {
	c, err := newCorpus(rules, manyCallers)
	if err != nil {
		return nil, err
	}
	s := &ruled{rules: rules, all: c.questions}
	for _, q := range c.questions {
		if q.caller < 10 {
			s.few = append(s.few, q)
		}
	}
	documents := c.documents()
	start := time.Now()
	server, err := startWrit(ctx, dir, binary, documents, cachedTokens)
	if err != nil {
		return nil, err
	}
	s.ready = time.Since(start)
	if s.load, err = newLoad(ctx, server, s.all, true); err == nil {
		if s.first, err = s.closed(connections, connections); err == nil {
			s.first *= connections // it waits on each of them
			err = s.warm(ctx)
		}
	}
	if err != nil {
		server.stop()
		return nil, err
	}
	return s, nil
}

// warm asks until the heap has been collected twice. Before that the process grows into memory that the kernel has to
// clear for it, up to twice of what it holds, which after a large load takes many checks and says nothing of what a check
// costs from then on.
func (l *load) warm(ctx context.Context) error {
	const metric, most = "go_gc_duration_seconds_count", 100
	start, err := l.metric(ctx, metric)
	for range most {
		if err != nil {
			return err
		}
		if _, err = l.closed(settle, 16); err != nil {
			return err
		}
		var now float64
		if now, err = l.metric(ctx, metric); err == nil && now >= start+2 {
			return nil
		}
	}
	return err
}

// memoryOf is a process's resident memory now and at its highest, in MiB.
func memoryOf(pid int) ([]string, error) {
	now, err := residentMiB(pid, residentNow)
	peak, err2 := residentMiB(pid, residentPeak)
	return []string{figure(now), figure(peak)}, errors.Join(err, err2)
}

// workloadsCurve asks about ever more workloads, which documents without a selector govern all alike. All servers take
// turns.
func workloadsCurve(ctx context.Context, dir, binary string) (*curve, error) {
	const rounds = 9
	c, err := newCorpus(1000, 1)
	if err != nil {
		return nil, err
	}
	shared := strings.ReplaceAll(c.documents(), "  selector: {matchLabels: {app: order}}\n", "")
	sizes := []int{1, 10, 100, 1000, 10_000}
	loads, costs := make([]*load, len(sizes)), make([][]float64, len(sizes))
	for i, workloads := range sizes {
		questions := make([]question, workloads)
		for j := range questions {
			questions[j].allowed = true
			if questions[j].raw, err = askAbout("caller-0", "GET", c.tokens[0], fmt.Sprintf("app=order-%d,version=v1", j)); err != nil {
				return nil, err
			}
		}
		s, err := startWrit(ctx, dir, binary, shared, cachedTokens)
		if err != nil {
			return nil, err
		}
		defer s.stop()
		if loads[i], err = newLoad(ctx, s, questions, true); err != nil {
			return nil, err
		}
		defer loads[i].Close()
		if _, err := loads[i].closed(max(workloads, settle), 16); err != nil {
			return nil, err
		}
		if err := loads[i].warm(ctx); err != nil {
			return nil, err
		}
	}
	for range rounds {
		for i, l := range loads {
			cpu, err := l.closed(perRound, 16)
			if err != nil {
				return nil, err
			}
			costs[i] = append(costs[i], float64(cpu))
		}
	}
	out := &curve{head: []string{"workloads, of the same 1,000 rules", "CPU of a check / one workload", "resident, MiB", "resident at its highest, MiB"}}
	for i, l := range loads {
		memory, err := memoryOf(l.pid)
		if err != nil {
			return nil, err
		}
		out.rows = append(out.rows, append([]string{count(sizes[i]), ratios(costs[i], costs[0]).String()}, memory...))
	}
	return out, nil
}

// tokensCurve asks with ever more tokens, each of them once: the cache holds 16,384.
func tokensCurve(ctx context.Context, dir, binary string, most int) (*curve, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	x, y := base64.RawURLEncoding.EncodeToString(point[1:33]), base64.RawURLEncoding.EncodeToString(point[33:])
	documents := fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: users, namespace: shop}\n"+
		"spec: {rules: [{from: [{source: {requestPrincipals: ['%[1]s/*']}}]}]}\n---\n"+
		"apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: idp, namespace: shop}\nspec:\n"+
		"  jwtRules: [{issuer: %[1]q, jwks: '{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"k\",\"alg\":\"ES256\",\"x\":%[2]q,\"y\":%[3]q}]}'}]\n", issuer, x, y)
	s, err := startWrit(ctx, dir, binary, documents, cachedTokens)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	l, err := newLoad(ctx, s, nil, true)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	out := &curve{head: []string{"tokens, ES256, each asked with once", "CPU of a check / the first 1,000", "resident, MiB", "resident at its highest, MiB"}}
	var first time.Duration
	asked := 0
	for _, tokens := range []int{1, 1000, 10_000, 100_000, 1_000_000} {
		if tokens > most {
			break
		}
		cpu, err := l.distinct(key, asked, tokens)
		if err != nil {
			return nil, err
		}
		asked = tokens
		if tokens == 1 { // again and again: it is in the cache
			if err := l.warm(ctx); err != nil {
				return nil, err
			}
		}
		cost := "–" // a single one says nothing
		if tokens > 1 {
			if first == 0 {
				first = cpu
			}
			cost = figure(float64(cpu) / float64(first))
		}
		memory, err := memoryOf(s.pid)
		if err != nil {
			return nil, err
		}
		out.rows = append(out.rows, append([]string{count(tokens), cost}, memory...))
	}
	return out, nil
}

// distinct asks with the tokens numbered from to below, made while those before are asked with, and returns the CPU time
// of a check.
func (l *load) distinct(key *ecdsa.PrivateKey, from, below int) (time.Duration, error) {
	type made struct {
		questions []question
		err       error
	}
	ahead := make(chan made, 1)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		defer close(ahead)
		for at := from; at < below; at += tokensAtOnce {
			var m made
			m.questions, m.err = distinctQuestions(key, at, min(at+tokensAtOnce, below))
			select {
			case ahead <- m:
			case <-stop:
				return
			}
		}
	}()
	var total time.Duration
	n := 0
	for m := range ahead {
		if m.err != nil {
			return 0, m.err
		}
		l.questions, l.asked = m.questions, 0
		asked := len(l.questions) + len(l.questions)%connections // each connection asks as many
		cpu, err := l.closed(asked, 16)
		if err != nil {
			return 0, err
		}
		total += cpu * time.Duration(asked)
		n += asked
	}
	return total / time.Duration(n), nil
}

// tokensAtOnce bounds the memory for questions that are asked only once.
const tokensAtOnce = 10_000

// distinctQuestions makes a question with each of the tokens, on all processors.
func distinctQuestions(key *ecdsa.PrivateKey, from, below int) ([]question, error) {
	questions := make([]question, below-from)
	workers := runtime.NumCPU()
	failed := make([]error, workers)
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			a, err := newAsking(orderLabels)
			for i := w; i < len(questions) && err == nil; i += workers {
				var token string
				if token, err = signedES256(key, from+i); err == nil {
					questions[i].allowed = true
					questions[i].raw, err = a.ask("caller", "GET", token)
				}
			}
			failed[w] = err
		})
	}
	wait.Wait()
	return questions, errors.Join(failed...)
}

// signedES256 is a token of a subject with this number.
func signedES256(key *ecdsa.PrivateKey, number int) (string, error) {
	claims := fmt.Sprintf(`{"iss":%q,"sub":"user-%d","exp":%d,"scope":"openid profile email orders:read orders:write",`+
		`"email":"user-%d@shop.example","groups":["customers","gold","newsletter"]}`, issuer, number, time.Now().Add(6*time.Hour).Unix(), number)
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"k","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// count writes a number with commas.
func count(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
