package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy"
)

// maxLineBytes bounds one line of --requests.
const maxLineBytes = 8 << 20

// questions are the flags that check and explain share: which documents, whom for, and which requests.
type questions struct {
	policies         []string
	config, requests string
	target           target
	request          requestFlags
	tokens           tokenFlags
	providers        providerFlags
	logged           bool // the request, and whom it is for, come from a decision log
}

func (q *questions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&q.policies, "policies", "p", nil, "`path` of documents: file, directory, or - for standard input; repeatable")
	f.StringVarP(&q.config, "config", "c", "", "configuration `file` to take the trust domain, documents and the rest from")
	f.StringVar(&q.requests, "requests", "", "`file` of requests, or -: one CheckRequest in protobuf JSON a line")
	q.target.flags(cmd)
	q.request.flags(cmd)
	q.tokens.flags(cmd)
	q.providers.flags(cmd)
}

func (c *cli) check() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what requests would be answered, offline",
		Long: "check decides requests by the code the server runs, without a server.\n\n" +
			"Exit codes: 0 all are allowed, 2 one is denied, 3 a document is invalid, 6 none is denied and of one that cannot be\n" +
			"told: it carries a token, and the keys to verify it with are not given (--jwks), or it is up to a provider that is not\n" +
			"asked offline (--provider).",
		Example: "  writ check -p ./policies --to coffee-shop/order --labels app=order --from coffee-shop/customer --path /orders\n" +
			"  writ check -p ./policies --workload order.json --requests requests.jsonl -o json",
		Args: cobra.NoArgs,
	}
	q := &questions{}
	q.flags(cmd)
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := c.newSession(cmd, q)
		if err != nil {
			return err
		}
		return c.replyBy(s, cmd, q, out, func(raw []byte) reply {
			_, a := s.decide(cmd.Context(), raw)
			return reply{a.exitCode(), a, func(w io.Writer, colours palette) error {
				var r policy.Request
				_, _ = extauthz.DecodeRequest(raw, s.options, &r) // a request that cannot be read is denied with the reason
				return writeAnswer(w, colours, a, &r)
			}}
		})
	}
	return cmd
}

// reply is what a command says to one question.
type reply struct {
	code  int // exit code
	value any // for programs
	text  func(w io.Writer, colours palette) error
}

// replyBy replies to every question of a session, in the form that was asked for.
func (c *cli) replyBy(s *session, cmd *cobra.Command, q *questions, out *format, to func(raw []byte) reply) error {
	colours := c.colours(c.out)
	return s.each(cmd, q, func(raw []byte) (int, error) {
		r := to(raw)
		return r.code, r.write(s.out, out, colours)
	})
}

// write writes the reply in the form that was asked for.
func (r *reply) write(w io.Writer, out *format, colours palette) error {
	if out.value != "text" {
		return out.encodeLine(w, r.value)
	}
	return r.text(w, colours)
}

// writeAnswer is an answer for people: what, of which request, and why.
func writeAnswer(w io.Writer, colours palette, a *answer, r *policy.Request) error {
	word := a.paint(colours)
	_, err := fmt.Fprintf(w, "%s%s  %s: %s\n", word, strings.Repeat(" ", max(len("ALLOW")-len(a.Decision), 0)), printable(describe(r)), printable(a.because()))
	for _, note := range a.notes() {
		if err == nil {
			_, err = fmt.Fprintf(w, "       %s\n", colours.cyan(printable(note)))
		}
	}
	return err
}

// session is what answers the questions of one command line.
type session struct {
	in       io.Reader
	out      *bufio.Writer
	snapshot *policy.Snapshot
	server   *extauthz.Server
	options  extauthz.Options
	workload *policy.Workload // nil: the requests name it
	docs     []*policy.Document
	tokens   authz.Tokens
	keys     *offlineKeys
	answers  answers
	mesh     policy.Mesh

	providers  *offlineProviders
	unverified *unverified // nil without --unverified-claims
}

// newSession reads configuration, workload and documents. Invalid documents end the command: offline nobody is served
// by a guess.
func (c *cli) newSession(cmd *cobra.Command, q *questions) (*session, error) {
	if err := q.consistent(cmd); err != nil {
		return nil, err
	}
	cfg := defaultConfig()
	cfg.Authz = &authzConfig{}
	cfg.Authz.defaults()
	if q.config != "" {
		loaded, err := c.loadConfig(q.config, nil)
		if err != nil {
			return nil, err
		}
		if loaded.Authz == nil {
			loaded.Authz = cfg.Authz
		}
		cfg = loaded
	}
	s := &session{in: c.in, out: bufio.NewWriter(c.out), mesh: cfg.mesh()}
	var err error
	if s.workload, err = q.target.resolve(cmd, &s.mesh); err != nil {
		return nil, err
	}
	if s.workload == nil && q.requests == "" && !q.logged {
		return nil, usagef("%s: whom is the request for? --to namespace/name --labels k=v, or --workload FILE", cmd.Name())
	}
	paths := q.policies
	if len(paths) == 0 {
		if cfg.Documents == "" {
			return nil, usagef("%s: %s names no documents: --policies PATH", cmd.Name(), q.config)
		}
		paths = []string{cfg.Documents}
	}
	if s.docs, s.snapshot, err = c.validDocuments(paths, s.mesh); err != nil {
		return nil, err
	}
	if s.workload != nil {
		*s.workload = policytest.NewAccounts(s.docs).Complete(*s.workload)
	}
	if err := c.readTokens(s, q, cfg); err != nil {
		return nil, err
	}
	if err := c.useUnverified(cmd, s, q); err != nil {
		return nil, err
	}
	if err := c.readProviders(cmd.Context(), s, q, cfg); err != nil {
		return nil, err
	}
	s.options = extauthz.Options{TrustedHops: cfg.Authz.TrustedHops, Paths: extauthz.PathMode(cfg.Authz.Paths)}
	return s, s.makeServer()
}

// makeServer makes the server by which the session decides.
func (s *session) makeServer() (err error) {
	s.server, err = extauthz.New(extauthz.Config{
		Snapshot:    func() *policy.Snapshot { return s.snapshot },
		Engine:      &authz.Engine{Tokens: s.tokens, Providers: s.providers.table},
		TrustedHops: s.options.TrustedHops,
		Paths:       s.options.Paths,
	})
	return err
}

// consistent refuses command lines that cannot be meant.
func (q *questions) consistent(cmd *cobra.Command) error {
	if len(q.policies) == 0 && q.config == "" {
		return usagef("%s: which documents? --policies PATH, or --config writ.yaml", cmd.Name())
	}
	if err := onceStdin(append([]string{q.requests, q.request.jwt, q.request.unverified}, q.policies...)...); err != nil {
		return err
	}
	if cmd.Flags().Changed(unverifiedFlag) {
		for _, other := range []string{"jwt", "jwks"} {
			if cmd.Flags().Changed(other) {
				return usagef("--%s verifies tokens, and --%s is none: give one of them", other, unverifiedFlag)
			}
		}
	}
	if given := q.request.given(cmd); q.requests != "" && given != "" {
		return usagef("%s: --requests brings whole requests, --%s describes one: give one of them", cmd.Name(), given)
	}
	return nil
}

// decide answers one request.
func (s *session) decide(ctx context.Context, raw []byte) (*authz.Decision, *answer) {
	s.keys.missing, s.providers.missing = nil, nil
	d := s.server.Decide(ctx, raw, s.workload)
	a := s.answers.of(&d)
	if len(s.keys.missing) > 0 {
		a = a.unknown(s.keys.missing)
	} else if len(s.providers.missing) > 0 {
		a = a.unasked(s.providers.missing)
	}
	if s.unverified != nil {
		a.markUnverified()
	}
	return &d, a
}

// each calls decide for every request, in order, and ends with the exit code for the answers: that all are allowed is
// refuted by one that is denied, whatever cannot be told of others.
func (s *session) each(cmd *cobra.Command, q *questions, decide func(raw []byte) (code int, err error)) error {
	codes, err := s.every(cmd, q, decide)
	if err = errors.Join(err, s.out.Flush()); err != nil {
		return err
	}
	for _, code := range []int{exitNo, exitUnknown} {
		if codes[code] {
			return exitWith(code)
		}
	}
	return nil
}

// every returns the exit codes that there were.
func (s *session) every(cmd *cobra.Command, q *questions, decide func([]byte) (int, error)) (map[int]bool, error) {
	if q.requests != "" {
		return s.lines(cmd.Context(), q.requests, decide)
	}
	line, err := q.request.checkRequest(cmd, s.mesh.TrustDomain)
	if err != nil {
		return nil, err
	}
	raw, err := extauthz.ParseJSON(line)
	if err != nil {
		return nil, err
	}
	code, err := decide(raw)
	return map[int]bool{code: true}, err
}

// lines reads requests from a file or standard input, one a line; empty lines are passed over.
func (s *session) lines(ctx context.Context, file string, decide func([]byte) (int, error)) (map[int]bool, error) {
	in := s.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("--requests: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	scanner := bufio.NewScanner(in)
	scanner.Buffer(make([]byte, 64<<10), maxLineBytes)
	codes, n := map[int]bool{}, 0
	for scanner.Scan() {
		n++
		line := bytes.TrimSpace(scanner.Bytes())
		if len(line) == 0 {
			continue
		}
		raw, err := extauthz.ParseJSON(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		code, err := decide(raw)
		if err != nil {
			return nil, err
		}
		codes[code] = true
		if file == "-" { // whoever writes the requests may wait for each answer
			if err := s.out.Flush(); err != nil {
				return nil, err
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w (a line has at most %d bytes)", file, n+1, err, maxLineBytes)
	}
	return codes, nil
}
