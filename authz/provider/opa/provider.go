package opa

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/writ-auth/writ/authz"
)

// Provider answers by policies. It is safe for concurrent use.
type Provider struct {
	config  Config
	source  source
	builder *builder
	guard   *guard
	program atomic.Pointer[program] // nil until something was loaded
	again   chan struct{}           // asks Run to look now

	loading sync.Mutex // one load at a time

	mu     sync.Mutex // guards what follows
	last   error      // of the last attempt
	tried  time.Time
	failed int // attempts since the last good one
}

// New checks the configuration, and reads ProtoDescriptor. It loads no policies yet: until [Provider.Load] or [Provider.Run] has, every question is
// answered with ReasonProviderNotReady.
func New(c Config) (*Provider, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	var known *services
	var err error
	if c.ProtoDescriptor != "" {
		if known, err = readServices(c.ProtoDescriptor); err != nil {
			return nil, err
		}
	}
	p := &Provider{config: c, builder: newBuilder(known), guard: newGuard(c.MaxMemory), again: make(chan struct{}, 1)}
	p.source, err = newSource(&p.config)
	return p, err
}

// Load looks at the source and puts what is there in force. An error says why it cannot be; what was in force stays.
func (p *Provider) Load(ctx context.Context) error {
	p.loading.Lock()
	defer p.loading.Unlock()
	err := p.load(ctx)
	if ctx.Err() != nil && err != nil { // told to stop
		return err
	}
	p.mu.Lock()
	first := p.last == nil || err == nil || p.last.Error() != err.Error()
	p.last, p.tried = err, p.config.Now()
	if p.failed++; err == nil {
		p.failed = 0
	}
	p.mu.Unlock()
	if err != nil && first {
		p.config.Logger.Error("policies cannot be loaded", "provider", p.config.Name, "effect", p.effect(), "error", err)
	}
	return err
}

func (p *Provider) effect() string {
	if p.program.Load() == nil {
		return "there are none: whoever asks is denied"
	}
	return "the last good ones stay in force"
}

func (p *Provider) load(ctx context.Context) (err error) {
	now := p.program.Load()
	version := ""
	if now != nil {
		version = now.version
	}
	defer func() {
		if r := recover(); r != nil { // what OPA's compiler makes of hostile text must not end the process
			err = fmt.Errorf("panic while loading: %v", r)
		}
	}()
	in, err := p.source.fetch(ctx, version)
	if err != nil || in == nil {
		return err
	}
	made, err := p.config.compile(ctx, in)
	if err != nil {
		return err
	}
	p.program.Store(made)
	p.config.Logger.Info("policies loaded", "provider", p.config.Name, "modules", made.modules, "revision", made.revision)
	return nil
}

// Local reports whether the policies are in files of this machine.
func (p *Provider) Local() bool { return !isURL(p.config.Bundle) }

// Reload asks Run to look at the source now. It does not wait.
func (p *Provider) Reload() {
	select {
	case p.again <- struct{}{}:
	default:
	}
}

// Run keeps what is in force in step with the source until ctx ends. It returns nil.
func (p *Provider) Run(ctx context.Context) error {
	for {
		_ = p.Load(ctx) // logged, counted, and shown by Status
		wait := time.NewTimer(p.pause())
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-p.again:
			wait.Stop()
		case <-wait.C:
		}
	}
}

// pause is how long to wait before the next look: files are looked at often, a server that fails is asked again sooner
// than one that answers, and less often the longer it fails.
func (p *Provider) pause() time.Duration {
	if p.Local() {
		return lookEvery
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == 0 {
		return p.config.Poll
	}
	return min(p.config.Poll, MinPoll<<min(p.failed-1, 10))
}

// Status is what a provider holds.
type Status struct {
	Bundle   string    `json:"bundle"`
	Ready    bool      `json:"ready"`              // something is in force
	Revision string    `json:"revision,omitempty"` // what the bundle calls itself
	Modules  int       `json:"modules"`
	Loaded   time.Time `json:"loaded,omitzero"` // when what is in force was loaded
	Tried    time.Time `json:"tried,omitzero"`  // the last attempt
	Error    string    `json:"error,omitempty"` // of the last attempt; what is in force may be older than the source
}

// Status says what is in force, and what became of the last attempt to change it.
func (p *Provider) Status() Status {
	s := Status{Bundle: shown(p.config.Bundle)}
	if now := p.program.Load(); now != nil {
		s.Ready, s.Revision, s.Modules, s.Loaded = true, now.revision, now.modules, now.loaded
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Tried = p.tried
	if p.last != nil {
		s.Error = p.last.Error()
	}
	return s
}

// Ask implements [authz.Provider].
func (p *Provider) Ask(ctx context.Context, q *authz.Question, a *authz.Answer) error {
	now := p.program.Load()
	switch {
	case now == nil:
		return &authz.Fault{Reason: authz.ReasonProviderNotReady, Err: errors.New("no policies are loaded: writ status says why")}
	case len(q.Raw) > p.config.MaxInputBytes:
		return badRequest("a request of %d bytes, more than max_input_bytes: %d", len(q.Raw), p.config.MaxInputBytes)
	}
	in, err := p.builder.input(ctx, q, now.want)
	if err != nil {
		var fault *authz.Fault
		if errors.As(err, &fault) {
			return err
		}
		return badRequest("the CheckRequest cannot be read: %v", err)
	}
	result, err := p.evaluate(ctx, now, in, q)
	if err != nil {
		return evaluationFault(ctx, err)
	}
	if result == nil {
		a.Reason, a.Detail = authz.ReasonProviderUndefined, "the policy leaves "+p.config.Decision+" undefined for this request"
		return nil
	}
	if err := readResult(result, a); err != nil {
		*a = authz.Answer{Reason: authz.ReasonProviderBadAnswer, Detail: p.config.Decision + ": " + err.Error()}
	}
	return nil
}

// evaluate asks the policies; nil is undefined.
func (p *Provider) evaluate(ctx context.Context, now *program, in ast.Value, q *authz.Question) (ast.Value, error) {
	e := p.guard.begin()
	defer p.guard.end(e)
	stop := context.AfterFunc(ctx, e.cancel.Cancel)
	defer stop()
	results, err := now.query.Eval(ctx,
		rego.EvalParsedInput(in),
		rego.EvalTime(p.config.Now()),
		rego.EvalMetrics(metrics.NoOp()),
		rego.EvalExternalCancel(e.cancel),
		rego.EvalPrintHook(printer{p, q.ID}),
	)
	if e.tooBig.Load() {
		return nil, &authz.Fault{Reason: authz.ReasonProviderMemory, Err: fmt.Errorf("memory grew by more than max_memory: %d while it was evaluated", p.config.MaxMemory)}
	}
	if err != nil {
		return nil, err
	}
	if len(results) == 0 || len(results[0].Expressions) == 0 {
		return nil, nil
	}
	term, ok := results[0].Expressions[0].Value.(*ast.Term)
	if !ok || len(results) > 1 {
		return nil, errors.New("the query has more than one result")
	}
	return term.Value, nil
}

func evaluationFault(ctx context.Context, err error) error {
	var e *topdown.Error
	var fault *authz.Fault
	switch {
	case errors.As(err, &fault):
		return fault
	case topdown.IsCancel(err), ctx.Err() != nil:
		return &authz.Fault{Reason: authz.ReasonProviderTimeout, Err: errors.New("the evaluation took too long and was stopped")}
	case errors.As(err, &e) && e.Location != nil:
		return &authz.Fault{Reason: authz.ReasonProviderError, Err: fmt.Errorf("%s:%d: %s", e.Location.File, e.Location.Row, e.Message)}
	}
	return &authz.Fault{Reason: authz.ReasonProviderError, Err: err}
}
