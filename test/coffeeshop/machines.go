package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/testkit"
)

const (
	// impostor says it is customer-service, by a certificate from an authority of its own.
	impostor = "impostor"

	// stolen is a till that is stolen in the course of the demo.
	stolen = "till-2"

	// identityTTL is how long certificates live here, and so they are renewed every ten seconds, to be looked at. An hour is
	// the default.
	identityTTL = 20 * time.Second

	// socketMost is the longest path that a Unix socket may have, in bytes.
	socketMost = 100
)

// holder is somebody with an identity, on a machine of its own. Those who are not services only call.
type holder struct {
	name string
	id   string
}

// holders are all whom writ's authority gives certificates.
func holders() []holder {
	var all []holder
	for _, m := range members {
		all = append(all, holder{m.name, serviceID(m.name)})
	}
	return append(all,
		holder{"admin-service", serviceID("admin-service")},
		holder{stolen, serviceID(stolen)},
		holder{"printer", "spiffe://cluster.local/ns/office/sa/printer"},
	)
}

func serviceID(name string) string { return "spiffe://cluster.local/ns/coffee-shop/sa/" + name }

// machine is where a holder runs: a folder with an agent, which has made itself known by a join token and keeps the identity
// for whoever runs there. The machine has no other: one service is all it is for.
type machine struct {
	agent *testkit.Agent
	// source is the identity of the holder's own program: the requests of the table are made with it. It comes by the
	// Workload API from the socket that an Envoy has its own from.
	source *workloadapi.X509Source
}

// agentSocket is where a machine's workloads get their identity.
func (s *shop) agentSocket(name string) string { return filepath.Join(s.file(name), "agent.sock") }

// startMachine joins a holder's machine to the mesh and returns when it has its identity.
func (s *shop) startMachine(ctx context.Context, h holder, tee io.Writer) (err error) {
	dir := s.file(h.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if _, err := s.run(ctx, "token", "create", "-c", "writ.yaml", "--id", h.id, "--out", filepath.Join(dir, "token")); err != nil {
		return err
	}
	config := fmt.Sprintf(`# The agent of %s. Every key: docs/agent.md
trust_domain: cluster.local
authority: {address: %q, bundle: ../state/bundle.pem}
attest: {join_token_file: ./token}      # good once; from then on the agent proves itself by its own certificate
# state: ./agent-state                  # would let it survive a restart without another token; here all keys stay in memory
sds: {listen: "unix:agent.sock"}        # Envoy and programs ask here
admin: unix:admin.sock
diagnostics: 127.0.0.1:0
workloads:
  # All of the demo runs as one user, so each service has an agent and a socket of its own, as if on a machine of its own.
  # On one machine they would be told apart here, by user, group, program or its hash.
  - {id: %q, uid: %d}
`, h.name, local(s.ports[portAuthority]), h.id, os.Getuid())
	file := filepath.Join(dir, "agent.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	m := &machine{}
	m.agent, err = testkit.StartAgent(ctx, testkit.AgentConfig{Name: h.name, Binary: s.writ, Config: file, Tee: tee})
	if err != nil {
		return err
	}
	s.later(func() error { m.agent.Stop(); return nil })
	if err := m.agent.WaitReady(ctx); err != nil {
		return err
	}
	m.source, err = workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+s.agentSocket(h.name))))
	if err != nil {
		return fmt.Errorf("the agent of %s gives its program no identity: %w", h.name, err)
	}
	s.later(m.source.Close)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines[h.name] = m
	return nil
}

// checkFolder makes sure that sockets fit.
func (s *shop) checkFolder() error {
	longest := 0
	for _, h := range holders() {
		longest = max(longest, len(s.agentSocket(h.name)), len(filepath.Join(s.file(h.name), "admin.sock")))
	}
	if longest > socketMost {
		return fmt.Errorf("%s is too long a path for Unix sockets: name another folder for temporary files, such as TMPDIR=/tmp", s.dir)
	}
	return nil
}

// forge makes the impostor's certificate.
func (s *shop) forge() error {
	own, err := testkit.NewCA("Not the coffee shop")
	if err != nil {
		return err
	}
	s.forged, err = own.Leaf(testkit.Names{URIs: []string{serviceID("customer-service")}})
	return err
}

// listIdentities shows what the authority's ledger knows of the holders.
func (s *shop) listIdentities(ctx context.Context, out io.Writer) error {
	text, err := s.run(ctx, "ca", "list", "-c", "writ.yaml", "--live", "-o", "json")
	if err != nil {
		return err
	}
	var ledger caserver.ListResponse
	if err := json.Unmarshal(text, &ledger); err != nil {
		return fmt.Errorf("writ ca list: %w", err)
	}
	issued := map[string]caserver.Certificate{}
	for _, c := range ledger.Certificates {
		if latest, ok := issued[c.ID.String()]; !ok || c.NotAfter.After(latest.NotAfter) {
			issued[c.ID.String()] = c
		}
	}
	fmt.Fprintf(out, "\nEvery service has a machine of its own here, with an agent that has joined by a token, good once. The agents have got\n"+
		"these identities from writ's authority, for %v each, and renew them; the keys are in memory and nowhere else:\n\n", identityTTL)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "   machine\tidentity\tserial number\tuntil\thanded over to")
	for _, h := range holders() {
		c, ok := issued[h.id]
		if !ok {
			return errors.New(h.id + " is not in the ledger")
		}
		to := "a program (Workload API)"
		if _, ok := s.sidecars[h.name]; ok {
			to = "Envoy (SDS)"
		}
		fmt.Fprintf(w, "   %s\t%s\t%s\t%s\t%s\n", h.name, h.id, c.Serial, c.NotAfter.Local().Format(time.TimeOnly), to)
	}
	fmt.Fprintf(w, "   %s\t%s\t(made by itself)\n", impostor, serviceID("customer-service"))
	return w.Flush()
}
