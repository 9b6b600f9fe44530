package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
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
  providers:
    - name: house-rules                 # which the CUSTOM policy barista-house-rules asks
      timeout: 5s
      opa: {bundle: ./rego, decision: barista/decision}
ca:
  listen: %s
  default_ttl: %s                        # for the show: agents renew after half of it. The default is 1h
  attest:
    join_token: {}
    client_cert: {grace: 24h}           # an agent that overslept, with the laptop, may come back
admin: unix:admin.sock
diagnostics: %s
`, s.policies, local(s.ports[portAuthority]), identityTTL, local(s.ports[portDiagnostics]))
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

// errRefused is a no of writ, exit code 2, and not a failure.
var errRefused = errors.New("refused")

const exitNo = 2

// run is a command of writ, in the shop's folder, as somebody would type it there. It returns what it prints.
func (s *shop) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.writ, args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in the terminal is for this program, which ends the others
	out, err := cmd.Output()
	failed, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case !ok:
		return out, err
	case failed.ExitCode() == exitNo:
		err = errRefused
	}
	return nil, fmt.Errorf("writ %s: %w\n%s%s", strings.Join(args, " "), err, out, failed.Stderr)
}
