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
	"slices"
	"strings"
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

// rulesCurve has all servers take turns.
func rulesCurve(ctx context.Context, dir, binary string) (*curve, error) {
	const rounds = 9
	sizes := []int{10, 100, 1000, 10_000, 100_000}
	costs := make([]spread, len(sizes))
	var loads []*load
	var ready []time.Duration
	for _, rules := range sizes {
		c, err := newCorpus(rules, manyCallers)
		if err != nil {
			return nil, err
		}
		start := time.Now()
		s, err := startWrit(ctx, dir, binary, c.documents(), cachedTokens)
		if err != nil {
			return nil, err
		}
		defer s.stop()
		ready = append(ready, time.Since(start))
		l, err := newLoad(ctx, s, c.questions, true)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		if _, err := l.closed(settle, 16); err != nil {
			return nil, err
		}
		loads = append(loads, l)
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
	c := &curve{head: []string{"rules", "CPU of a check / with 10 rules", "from start to ready, s", "resident, MiB", "resident at its highest, MiB"}}
	for i, l := range loads {
		memory, err := memoryOf(l.pid)
		if err != nil {
			return nil, err
		}
		c.rows = append(c.rows, append([]string{count(sizes[i]), ratios(costs[i], costs[0]).String(), figure(ready[i].Seconds())}, memory...))
	}
	return c, nil
}

// memoryOf is a process's resident memory now and at its highest, in MiB.
func memoryOf(pid int) ([]string, error) {
	now, err := residentMiB(pid, residentNow)
	peak, err2 := residentMiB(pid, residentPeak)
	return []string{figure(now), figure(peak)}, errors.Join(err, err2)
}

// workloadsCurve asks about ever more workloads, which documents without a selector govern all alike.
func workloadsCurve(ctx context.Context, dir, binary string) (*curve, error) {
	c, err := newCorpus(1000, 1)
	if err != nil {
		return nil, err
	}
	shared := strings.ReplaceAll(c.documents(), "  selector: {matchLabels: {app: order}}\n", "")
	out := &curve{head: []string{"workloads, of the same 1,000 rules", "CPU of a check / one workload", "resident, MiB", "resident at its highest, MiB"}}
	var one time.Duration
	for _, workloads := range []int{1, 10, 100, 1000, 10_000} {
		questions := make([]question, workloads)
		for i := range questions {
			raw, err := askAbout("caller-0", "GET", c.tokens[0], fmt.Sprintf("app=order-%d,version=v1", i))
			if err != nil {
				return nil, err
			}
			questions[i] = question{raw, true}
		}
		s, err := startWrit(ctx, dir, binary, shared, cachedTokens)
		if err != nil {
			return nil, err
		}
		row, cpu, err := settled(ctx, s, questions, max(workloads, settle))
		s.stop()
		if err != nil {
			return nil, err
		}
		if one == 0 {
			one = cpu
		}
		out.rows = append(out.rows, append([]string{count(workloads), figure(float64(cpu) / float64(one))}, row...))
	}
	return out, nil
}

// settled asks n questions twice, and returns the memory after it and the CPU time of a check the second time, the median of
// some rounds.
func settled(ctx context.Context, s *server, questions []question, n int) ([]string, time.Duration, error) {
	l, err := newLoad(ctx, s, questions, true)
	if err != nil {
		return nil, 0, err
	}
	defer l.Close()
	if _, err := l.closed(n, 16); err != nil {
		return nil, 0, err
	}
	var costs []time.Duration
	for range 5 {
		cpu, err := l.closed(n, 16)
		if err != nil {
			return nil, 0, err
		}
		costs = append(costs, cpu)
	}
	slices.Sort(costs)
	memory, err := memoryOf(s.pid)
	return memory, costs[len(costs)/2], err
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

// distinct asks with the tokens numbered from to below, made shortly before, and returns the CPU time of a check.
func (l *load) distinct(key *ecdsa.PrivateKey, from, below int) (time.Duration, error) {
	const chunk = 5000
	var total time.Duration
	n := 0
	for at := from; at < below; at += chunk {
		l.questions = l.questions[:0]
		for i := at; i < min(at+chunk, below); i++ {
			token, err := signedES256(key, i)
			if err != nil {
				return 0, err
			}
			raw, err := ask("caller", "GET", token)
			if err != nil {
				return 0, err
			}
			l.questions = append(l.questions, question{raw, true})
		}
		l.asked = 0
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
