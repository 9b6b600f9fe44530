package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

const (
	manyRules    = 10_000
	cachedTokens = 16_384 // writ's default
	perRound     = 16_000 // checks of each server in each round, which takes in its garbage collector
	perRoundOPA  = 1_600  // of a server that is slower by an order of magnitude
	turns        = 16     // in which they are asked
	settle       = 16_000 // checks before the first round
)

// concurrencies are how many checks are open at a time, over both connections.
func concurrencies() [2]int { return [2]int{16, 64} }

// results of the table.
type results struct {
	cached, verified, opa [2]spread // CPU ratios, by concurrency
	generator             [2]spread // the load generator's own CPU to the stock server's
	allocations           spread
	latency, added        spread
	slowest               spread  // p99 end to end
	rbac                  [2]rbac // by number of rules
	issuing               spread
	stepCA, stepCAStored  spread // CPU of a certificate to that of step-ca's library, without and with a ledger on disk
	stepCATime            spread // wall-clock time of one when there is a ledger on disk
	memory, push          spread
	compiled              []compiled
}

func table(ctx context.Context, dir, write string, rounds int) error {
	busy, err := loadAverage()
	if err != nil {
		return err
	}
	binary, err := testkit.BuildWrit(ctx, dir)
	if err != nil {
		return err
	}
	envoy, err := testkit.EnvoyPath(ctx)
	if err != nil {
		return err
	}
	c, err := newCorpus(manyRules, manyCallers)
	if err != nil {
		return err
	}
	r := &results{}
	start := time.Now()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"checks", func() error { return r.checks(ctx, dir, binary, c, rounds) }},
		{"end to end", func() error { return r.endToEnd(ctx, dir, binary, envoy, c, rounds) }},
		{"Envoy's RBAC filter", func() error { return r.besideRBAC(ctx, dir, binary, envoy, min(rounds, 9)) }},
		{"compiling", func() error { r.compiled, err = compileTimes(ctx, dir, c.documents(), min(rounds, 7)); return err }},
		{"issuing", func() error { return r.certificates(ctx) }},
		{"issuing beside step-ca", func() error { return r.issuedBy(ctx, dir, min(rounds, 9)) }},
		{"secrets", func() error { return r.secrets(ctx) }},
	} {
		fmt.Fprintln(os.Stderr, "measuring", step.name)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	text := r.markdown() + fmt.Sprintf("\nMeasured on %s, with %s, in %s.\n",
		time.Now().Format(time.DateOnly), machine(ctx, busy, envoy), time.Since(start).Round(time.Second))
	return publish(write, "bench-table", text)
}

// checks measures the four servers in turns.
func (r *results) checks(ctx context.Context, dir, binary string, c *corpus, rounds int) error {
	rego := filepath.Join(dir, "p.rego")
	if err := os.WriteFile(rego, []byte(c.rego()), 0o600); err != nil {
		return err
	}
	var loads [4]*load // cached, verified each time, OPA, stock
	for i, start := range []func() (*server, error){
		func() (*server, error) { return startWrit(ctx, dir, binary, c.documents(), cachedTokens) },
		func() (*server, error) { return startWrit(ctx, dir, binary, c.documents(), 0) },
		func() (*server, error) { return startSelf(ctx, roleOPA, rego) },
		func() (*server, error) { return startSelf(ctx, roleStock) },
	} {
		s, err := start()
		if err != nil {
			return err
		}
		defer s.stop()
		if loads[i], err = newLoad(ctx, s, c.questions, s.name != roleStock); err != nil {
			return err
		}
		defer loads[i].Close()
	}
	for at, open := range concurrencies() {
		for i, l := range loads {
			n := settle
			if i == 2 {
				n = perRoundOPA
			}
			if _, err := l.closed(n, open); err != nil {
				return err
			}
		}
		for range rounds {
			if err := r.round(loads, at, open); err != nil {
				return err
			}
		}
	}
	return r.allocated(ctx, loads[0])
}

// round has each server take its turns, and adds what came out. Turns are short, and every other time in the opposite order:
// how fast a processor is changes while others use the machine it is a part of.
func (r *results) round(loads [4]*load, at, open int) error {
	var took [len(loads)]float64
	var own time.Duration
	for turn := range turns {
		for i := range loads {
			if turn%2 == 1 {
				i = len(loads) - 1 - i
			}
			n := perRound / turns
			if i == 2 {
				n = perRoundOPA / turns
			}
			before := ownCPU()
			cpu, err := loads[i].closed(n, open)
			if err != nil {
				return err
			}
			took[i] += float64(cpu)
			if i == 3 {
				own += (ownCPU() - before) / time.Duration(n)
			}
		}
	}
	r.cached[at] = append(r.cached[at], took[0]/took[3])
	r.verified[at] = append(r.verified[at], took[1]/took[3])
	r.opa[at] = append(r.opa[at], took[0]/took[2])
	r.generator[at] = append(r.generator[at], float64(own)/took[3])
	return nil
}

// allocated counts what the whole of writ serve allocates for a check.
func (r *results) allocated(ctx context.Context, l *load) error {
	const metric = "go_memstats_mallocs_total"
	for range 5 {
		before, err := l.metric(ctx, metric)
		if err != nil {
			return err
		}
		if _, err := l.closed(2*perRound, concurrencies()[0]); err != nil {
			return err
		}
		after, err := l.metric(ctx, metric)
		if err != nil {
			return err
		}
		r.allocations = append(r.allocations, (after-before)/(2*perRound))
	}
	return nil
}

// ownCPU is the CPU time of this process.
func ownCPU() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // cannot fail with these arguments
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// certificates has package ca compare itself with crypto/x509.
func (r *results) certificates(ctx context.Context) error {
	out, err := benchmark(ctx, "./ca", "^BenchmarkIssue$", 7)
	if err != nil {
		return err
	}
	r.issuing = reported(out, "vs-plain")
	return nil
}

// secrets compares the SDS server with go-control-plane's LinearCache.
func (r *results) secrets(ctx context.Context) error {
	out, err := benchmark(ctx, "./test/bench/sds", "^BenchmarkStreams$/node=[0-9][0-9][0-9]", 3) // Envoy says much of itself
	if err != nil {
		return err
	}
	r.memory, r.push = reported(out, "memory-ratio"), reported(out, "cpu-ratio")
	return nil
}

// benchmark runs one of the repository's.
func benchmark(ctx context.Context, pkg, name string, count int) ([]byte, error) {
	root, err := testkit.Root()
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", name, "-benchtime", "1s", "-count", strconv.Itoa(count), pkg)
	command.Dir = root
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	return out, nil
}

// reported collects one metric of a benchmark's output.
func reported(out []byte, metric string) spread {
	var list spread
	for line := range bytes.Lines(out) {
		fields := strings.Fields(string(line))
		for i := 1; i < len(fields); i++ {
			if value, err := strconv.ParseFloat(fields[i-1], 64); fields[i] == metric && err == nil {
				list = append(list, value)
			}
		}
	}
	return list
}

// collect takes one figure of each compilation.
func (r *results) collect(figure func(compiled) float64) spread {
	var list spread
	for _, c := range r.compiled {
		list = append(list, figure(c))
	}
	return list
}

func (r *results) markdown() string {
	per := func(unit string, s spread) string { return strings.TrimSuffix(s.String()+" "+unit, " ") }
	row := func(what, most string, figures ...string) []string {
		return append([]string{what, most}, append(figures, "")[:2]...)
	}
	var beside [][]string
	for i, rules := range rbacSizes() {
		name := fmt.Sprintf("%s rules, Envoy + writ / Envoy with its RBAC filter: ", count(rules))
		beside = append(beside,
			row(name+"CPU of a request", "", r.rbac[i].cpu.String()), row("the same: p50", "", r.rbac[i].p50.String()), row("the same: p99", "", r.rbac[i].p99.String()))
	}
	return markdown([]string{"what", "to be at most", "16 at a time", "64 at a time"}, slices.Concat([][]string{
		row("CPU of a check, cached token / stock no-op server", "0.50", r.cached[0].String(), r.cached[1].String()),
		row("the same, RS256 verified each time", "1.5", r.verified[0].String(), r.verified[1].String()),
		row("the same, cached / server with OPA's library and the same policy", "0.06", r.opa[0].String(), r.opa[1].String()),
		row("allocations in a check, whole server, of which in our own code 0", "60", r.allocations.String()),
		row("p50 end to end, Envoy + writ / Envoy + stock no-op", "1.10", r.latency.String()),
		row("p50 that asking adds, writ / stock no-op", "", r.added.String()),
		row("p99 end to end, Envoy + writ / Envoy + stock no-op", "", r.slowest.String()),
	}, beside, [][]string{
		row("CSR to certificate, self-check included / `crypto/x509`", "0.90", r.issuing.String()),
		row("the same, ledger in memory / step-ca's library without database", "", r.stepCA.String()),
		row("the same, ledger on disk (SQLite) / step-ca's library with Badger, both synced", "", r.stepCAStored.String()),
		row("wall-clock time of these two", "", r.stepCATime.String()),
		row("SDS: resident memory of a stream / LinearCache", "0.95", r.memory.String()),
		row("SDS: CPU of a push to a stream / LinearCache", "0.75", r.push.String()),
		row("10,000 rules compiled and indexed, to the first answer: wall", "0.1 s", per("s", r.collect(func(c compiled) float64 { return (c.Wall - c.Read).Seconds() }))),
		row("the same, with reading the YAML: wall", "", per("s", r.collect(func(c compiled) float64 { return c.Wall.Seconds() }))),
		row("the same: CPU", "0.8 s", per("s", r.collect(func(c compiled) float64 { return c.CPU.Seconds() }))),
		row("the same: held on the heap, documents included", "64 MiB", per("MiB", r.collect(func(c compiled) float64 { return c.HeldMiB }))),
		row("the same: resident memory at its highest", "", per("MiB", r.collect(func(c compiled) float64 { return c.PeakMiB }))),
		row("CPU of the load generator / stock no-op server", "1", r.generator[0].String(), r.generator[1].String()),
	}))
}
