package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// rbacSizes are the numbers of rules for which Envoy with its own filter is compared with Envoy that asks writ.
func rbacSizes() [2]int { return [...]int{10, manyRules} }

// rbacRate is how many requests a second come in by so many rules: few enough for a filter that tries one rule after another.
func rbacRate(rules int) int {
	if rules < manyRules {
		return userRate
	}
	return userRate / 6
}

// rbac are ratios of Envoy and writ to Envoy with its RBAC filter.
type rbac struct{ cpu, p50, p99 spread }

// besideRBAC has two Envoys take turns: one asks writ, and one decides by itself with the jwt_authn and RBAC filters that
// Istio generates from the same documents. Rules are by token, method and path, so that plain HTTP will do.
func (r *results) besideRBAC(ctx context.Context, dir, binary, envoyPath string, rounds int) error {
	for i, rules := range rbacSizes() {
		c, err := newCorpus(rules, manyCallers)
		if err != nil {
			return err
		}
		if err := r.rbac[i].measure(ctx, dir, binary, envoyPath, c, rounds); err != nil {
			return fmt.Errorf("%d rules: %w", rules, err)
		}
	}
	return nil
}

func (r *rbac) measure(ctx context.Context, dir, binary, envoyPath string, c *corpus, rounds int) error {
	dir, err := os.MkdirTemp(dir, "rbac-")
	if err != nil {
		return err
	}
	documents := regexp.MustCompile(`from: .*\n +to:`).ReplaceAllString(c.documents(), "to:")
	writ, err := startWrit(ctx, dir, binary, documents, cachedTokens)
	if err != nil {
		return err
	}
	defer writ.stop()
	pages := pagesOf(c.tokens, "GET /api/v1/menu", "DELETE /api/v1/menu")
	arms := [2]*proxied{{servers: []*server{writ}}, {}}
	for i, bootstrap := range [len(arms)]string{
		bootstrap(map[string]string{"shop": writ.address}),
		"static_resources:\n  listeners:" + listener("shop", "", c.jwtFilter()+c.rbacFilter()) + "\n",
	} {
		name := fmt.Sprintf("arm-%d", i)
		envoy, err := testkit.StartEnvoy(ctx, testkit.EnvoyConfig{Name: name, Binary: envoyPath, Dir: dir, Bootstrap: bootstrap})
		if err != nil {
			return err
		}
		defer envoy.Stop()
		pid, err := processWith(filepath.Join(dir, name+"-envoy.yaml"))
		if err != nil {
			return err
		}
		arms[i].users = &users{address: envoy.Listener("shop"), pages: pages, strict: true}
		arms[i].servers = append(arms[i].servers, &server{name: envoy.Name, pid: pid})
	}
	for round := range rounds + 1 {
		var cpu, p50, p99 [len(arms)]float64
		for i, arm := range arms {
			took, used, err := arm.round(ctx, rbacRate(c.rules))
			if err != nil {
				return err
			}
			cpu[i], p50[i], p99[i] = float64(used), float64(took.quantile(0.5)), float64(took.quantile(0.99))
		}
		if round > 0 { // the first warms up
			r.cpu, r.p50, r.p99 = append(r.cpu, cpu[0]/cpu[1]), append(r.p50, p50[0]/p50[1]), append(r.p99, p99[0]/p99[1])
		}
	}
	return nil
}

// proxied are users of a proxy, and all processes that work for them.
type proxied struct {
	users   *users
	servers []*server
}

// round returns latencies, and the CPU time of all processes.
func (p *proxied) round(ctx context.Context, perSecond int) (took, time.Duration, error) {
	before, err := p.cpu()
	if err != nil {
		return nil, 0, err
	}
	took, err := p.users.round(ctx, perSecond)
	if err != nil {
		return nil, 0, err
	}
	after, err := p.cpu()
	return took, after - before, err
}

func (p *proxied) cpu() (total time.Duration, err error) {
	for _, s := range p.servers {
		used, failed := s.cpu()
		total, err = total+used, errors.Join(err, failed)
	}
	return total, err
}

// processWith finds the process that has the argument.
func processWith(argument string) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		for one := range bytes.SplitSeq(text, []byte{0}) {
			if string(one) == argument {
				return strconv.Atoi(filepath.Base(filepath.Dir(file)))
			}
		}
	}
	return 0, fmt.Errorf("no process has the argument %s", argument)
}

// jwtFilter is what Istio makes of the RequestAuthentication.
func (c *corpus) jwtFilter() string {
	return fmt.Sprintf(`
          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                origins-0:
                  issuer: %q
                  audiences: [%s]
                  local_jwks: {inline_string: '%s'}
                  payload_in_metadata: payload
                  normalize_payload_in_metadata: {space_delimited_claims: [scope, permission]}
              rules: [{match: {prefix: /}, requires: {requires_any: {requirements: [{provider_name: origins-0}, {allow_missing: {}}]}}}]
              bypass_cors_preflight: true`, issuer, audience, c.jwks())
}

// rbacFilter is what Istio makes of the AuthorizationPolicies.
func (c *corpus) rbacFilter() string {
	var b strings.Builder
	b.WriteString(`
          - name: envoy.filters.http.rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              shadow_rules_stat_prefix: istio_dry_run_allow_
              rules:
                policies:`)
	const claim = `{metadata: {filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: %s}], value: {string_match: {exact: %q}}}}`
	for i := range c.rules {
		fmt.Fprintf(&b, `
                  "ns[shop]-policy[p-%06d]-rule[%d]":
                    permissions: [{and_rules: {rules: [{or_rules: {rules: [{header: {name: ":method", string_match: {exact: GET}}}]}}, {or_rules: {rules: [{url_path: {path: {prefix: /api/v1/}}}]}}]}}]
                    principals: [{and_ids: {ids: [{or_ids: {ids: [{and_ids: {ids: [%s, %s]}}]}}]}}]`,
			i/rulesInPolicy*rulesInPolicy, i%rulesInPolicy, fmt.Sprintf(claim, "iss", issuer), fmt.Sprintf(claim, "sub", fmt.Sprint("user-", i)))
	}
	fmt.Fprintf(&b, `
                  "ns[shop]-policy[open]-rule[0]":
                    permissions: [{and_rules: {rules: [{or_rules: {rules: [{url_path: {path: {exact: %s}}}]}}]}}]
                    principals: [{and_ids: {ids: [{any: true}]}}]`, openPath)
	return b.String()
}
