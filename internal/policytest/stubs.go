package policytest

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/writ-auth/writ/authz"
)

// stubs stand before providers: what the case at hand says comes first, then those that are asked for real.
type stubs struct {
	configs []authz.ProviderConfig
	answers map[string]Answer // of the case at hand
	missing []string          // providers that were asked and for which nobody answers
}

// newStubs puts a stub before every provider.
func newStubs(cfg *Config) *stubs {
	s := &stubs{}
	known := map[string]bool{}
	add := func(c authz.ProviderConfig) {
		if known[c.Name] {
			return
		}
		known[c.Name] = true
		c.Provider = &stub{s, c.Name, c.Provider}
		s.configs = append(s.configs, c)
	}
	for _, c := range cfg.Providers {
		add(c)
	}
	for _, c := range cfg.Remote {
		c.Provider = nil
		add(c)
	}
	return s
}

// Check finds what only the documents show to be wrong with a suite: an answer for a provider that nobody would ask.
func (r *Runner) Check(s *Suite, suggest func(string, []string) string) []Problem {
	known := make([]string, 0, len(r.stubs.configs))
	for i := range r.stubs.configs {
		known = append(known, r.stubs.configs[i].Name)
	}
	said := map[string]bool{}
	var problems []Problem
	for i := range s.Cases {
		c := &s.Cases[i]
		for _, name := range slices.Sorted(maps.Keys(c.Providers)) {
			if slices.Contains(known, name) || said[name] {
				continue
			}
			said[name] = true
			problems = append(problems, Problem{File: c.File, Line: c.Line, Column: c.Column, Field: "providers." + name,
				Message: "no provider has this name: nobody would ask it" + suggest(name, known)})
		}
	}
	return problems
}

// stub answers for one provider.
type stub struct {
	stubs *stubs
	name  string
	real  authz.Provider // nil for one that is somewhere else
}

var errNoAnswer = errors.New("the test says so")

// Ask implements [authz.Provider]. Where nobody answers, the request goes on: a denial by another layer stands.
func (s *stub) Ask(ctx context.Context, q *authz.Question, a *authz.Answer) error {
	switch s.stubs.answers[s.name] {
	case AnswerAllow:
		a.Allow = true
		return nil
	case AnswerDeny:
		return nil
	case AnswerError:
		return errNoAnswer
	}
	if s.real != nil {
		return s.real.Ask(ctx, q, a)
	}
	if !slices.Contains(s.stubs.missing, s.name) {
		s.stubs.missing = append(s.stubs.missing, s.name)
	}
	a.Allow = true
	return nil
}
