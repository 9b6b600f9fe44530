package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// startAuthority writes writ.yaml and runs `writ serve` on it.
func (s *shop) startAuthority(ctx context.Context, tee io.Writer) error {
	config := fmt.Sprintf(`# The coffee shop's authority. Every key: docs/configuration.md
trust_domain: cluster.local
root_namespace: istio-system
documents: %s
state: ./state                          # the certificate authority's keys and its ledger
authz:
  listen: unix:authz.sock
  decision_log: {to: decisions.jsonl, log: all}
  jwks:
    allow_networks: [127.0.0.1]         # by default no key is fetched from this machine or a private network
    ca: {127.0.0.1: identity-ca.pem}    # besides the system's CAs, for this host alone
ca:
  listen: %s
admin: unix:admin.sock
diagnostics: %s
`, s.policies, local(s.ports[portAuthority]), local(s.ports[portDiagnostics]))
	if err := os.WriteFile(s.file("writ.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	authority, err := testkit.StartAuthority(ctx, testkit.AuthorityConfig{
		Binary: s.writ, Config: s.file("writ.yaml"), Tee: tee,
	})
	if err != nil {
		return err
	}
	s.authority = authority
	s.later(func() error { authority.Stop(); return nil })
	ready, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return authority.WaitReady(ready)
}

// run is a command of writ, in the shop's folder, as somebody would type it there. It returns what it prints.
func (s *shop) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.writ, args...)
	cmd.Dir = s.dir
	out, err := cmd.Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("writ %s: %w\n%s", strings.Join(args, " "), err, failed.Stderr)
	}
	return out, err
}
