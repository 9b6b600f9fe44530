package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider/opa"
	"github.com/writ-auth/writ/policy"
)

// providerFlags say what providers answer that are not asked offline.
type providerFlags struct{ stubs []string }

func (p *providerFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&p.stubs, "provider", nil,
		"`NAME=allow` or NAME=deny: what a provider of CUSTOM policies answers that is not asked offline; repeatable")
}

// parse returns what each provider is said to answer.
func (p *providerFlags) parse() (map[string]bool, error) {
	stubs := map[string]bool{}
	for _, text := range p.stubs {
		name, answer, _ := strings.Cut(text, "=")
		if !authz.IsProviderName(name) || answer != "allow" && answer != "deny" {
			return nil, usagef("--provider %q: want NAME=allow or NAME=deny", text)
		}
		if before, twice := stubs[name]; twice && before != (answer == "allow") {
			return nil, usagef("--provider %s is said to allow and to deny", name)
		}
		stubs[name] = answer == "allow"
	}
	return stubs, nil
}

// offlineProviders stand in for the providers of an authority: those with policies on this machine answer for real, the
// others as --provider says or not at all.
type offlineProviders struct {
	table   *authz.Providers
	missing []string // providers that were asked and have no answer, since this was last set to nil
}

// readProviders makes the providers of a session. Policies that do not load end the command.
func (c *cli) readProviders(ctx context.Context, s *session, q *questions, cfg *config) error {
	stubs, err := q.providers.parse()
	if err != nil {
		return err
	}
	s.providers = &offlineProviders{}
	var configs []authz.ProviderConfig
	named := map[string]bool{}
	add := func(name string, p authz.Provider, settings authz.ProviderConfig) {
		if !named[name] {
			named[name] = true
			settings.Name, settings.Provider = name, p
			configs = append(configs, settings)
		}
	}
	for name, allow := range stubs {
		add(name, stub(allow), authz.ProviderConfig{})
	}
	known, err := newProviders(cfg.Authz, slog.New(newPrintHandler(c.err)), s.tokens.Now)
	if err != nil {
		return invalidf("%w", err)
	}
	defer known.close()
	for _, p := range known.all {
		if named[p.name] || p.opa == nil || !p.opa.Local() {
			add(p.name, s.providers.unasked(p.name), p.config)
			continue
		}
		if err := p.opa.Load(ctx); err != nil {
			return invalidf("provider %s: %w", p.name, err)
		}
		add(p.name, p.opa, p.config)
	}
	if q.config == "" { // whom policies name is configured elsewhere
		for _, name := range providersOf(s.docs) {
			if authz.IsProviderName(name) {
				add(name, s.providers.unasked(name), authz.ProviderConfig{})
			}
		}
	}
	s.providers.table, err = authz.NewProviders(nil, configs...)
	return err
}

// providersOf lists the providers that documents name.
func providersOf(docs []*policy.Document) []string {
	var names []string
	for _, d := range docs {
		if spec, ok := d.Spec.(*securityv1beta1.AuthorizationPolicy); ok && spec.GetProvider().GetName() != "" {
			names = append(names, spec.GetProvider().GetName())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// stub is a provider that always says the same.
type stub bool

// Ask implements [authz.Provider].
func (s stub) Ask(_ context.Context, _ *authz.Question, a *authz.Answer) error {
	a.Allow = bool(s)
	if !s {
		a.Detail = "--provider says so"
	}
	return nil
}

// unasked stands for a provider whose answer is not known: it lets requests go on, and is remembered.
func (p *offlineProviders) unasked(name string) authz.Provider {
	return unaskedProvider{p, name}
}

type unaskedProvider struct {
	all  *offlineProviders
	name string
}

// Ask implements [authz.Provider].
func (u unaskedProvider) Ask(_ context.Context, _ *authz.Question, a *authz.Answer) error {
	a.Allow = true
	u.all.missing = append(u.all.missing, u.name)
	return nil
}

// reasonProviderNotAsked is the reason of an answer that depends on a provider which only a running authority asks.
const reasonProviderNotAsked authz.Reason = "provider_not_asked"

// unasked is the answer when these providers were not asked. A denial stands, whatever they would say; an allow depends on
// them.
func (a *answer) unasked(names []string) *answer {
	for i := range a.Custom {
		if slices.Contains(names, a.Custom[i].Provider) {
			a.Custom[i].Outcome = reasonProviderNotAsked
		}
	}
	if a.Decision != "ALLOW" {
		return a
	}
	return &answer{
		Decision: "UNKNOWN", Headers: map[string]string{}, Reason: reasonProviderNotAsked, Layer: authz.LayerCustom, Custom: a.Custom, Workload: a.Workload,
		Detail: fmt.Sprintf("it depends on provider %s, which is not asked offline: say what it answers with --provider %s=allow or %s=deny",
			strings.Join(names, " and "), names[0], names[0]),
	}
}

// askedAnswer is what became of one question to a provider.
type askedAnswer struct {
	Provider string       `json:"provider"`
	Outcome  authz.Reason `json:"outcome"`
	Policy   string       `json:"policy"`
	Rule     int          `json:"rule"`
	Open     bool         `json:"failed_open,omitempty"`
	Refused  int          `json:"refused_changes,omitempty"`
}

// changesAnswer is what providers do to an allowed request and to its response.
type changesAnswer struct {
	SetHeaders      []headerAnswer `json:"set_headers,omitempty"`
	RemoveHeaders   []string       `json:"remove_headers,omitempty"`
	ResponseHeaders []headerAnswer `json:"response_headers,omitempty"`
	SetParams       []headerAnswer `json:"set_query_parameters,omitempty"`
	RemoveParams    []string       `json:"remove_query_parameters,omitempty"`
	Metadata        map[string]any `json:"dynamic_metadata,omitempty"`
}

type headerAnswer struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Added bool   `json:"added,omitempty"` // to what is there
}

// custom fills in what providers said.
func (a *answer) custom(d *authz.Decision) {
	for i := range d.Asked {
		asked := &d.Asked[i]
		a.Custom = append(a.Custom, askedAnswer{
			asked.Provider, asked.Outcome, asked.Rule.Policy.String(), asked.Rule.Index, asked.Open, asked.Refused,
		})
	}
	if len(d.Asked) == 0 {
		return
	}
	c := &d.Changes
	if !d.Allow {
		for _, h := range c.ResponseHeaders {
			a.Headers[h.Name] = h.Value
		}
		return
	}
	headers := func(list []authz.HeaderChange) (out []headerAnswer) {
		for _, h := range list {
			out = append(out, headerAnswer{h.Name, h.Value, h.Append == authz.HeaderAppendOrAdd})
		}
		return out
	}
	changes := &changesAnswer{
		SetHeaders: headers(c.RequestHeaders), RemoveHeaders: slices.Clone(c.RemoveHeaders), ResponseHeaders: headers(c.ResponseHeaders),
		RemoveParams: slices.Clone(c.RemoveParams), Metadata: c.Metadata,
	}
	for _, p := range c.SetParams {
		changes.SetParams = append(changes.SetParams, headerAnswer{Name: p.Name, Value: p.Value})
	}
	if len(changes.SetHeaders)+len(changes.RemoveHeaders)+len(changes.ResponseHeaders)+len(changes.SetParams)+len(changes.RemoveParams)+len(c.Metadata) > 0 {
		a.Changes = changes
	}
}

// customNotes says which providers were asked, one a line.
func (a *answer) customNotes() []string {
	var notes []string
	for _, asked := range a.Custom {
		outcome := strings.ReplaceAll(strings.TrimPrefix(string(asked.Outcome), "provider_"), "_", " ")
		note := fmt.Sprintf("provider %s, by rule %d of %s: %s", asked.Provider, asked.Rule, asked.Policy, outcome)
		if asked.Open {
			note += ", and it fails open"
		}
		notes = append(notes, note)
	}
	return notes
}

// printHandler shows what policies print, and nothing else of the log.
type printHandler struct{ slog.Handler }

func newPrintHandler(w io.Writer) printHandler {
	return printHandler{slog.NewTextHandler(w, nil)}
}

// Handle implements [slog.Handler].
func (h printHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Message != opa.PrintMessage {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}
