package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/sync/errgroup"

	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/testkit"
)

// impostor says it is customer-service, by a certificate from an authority of its own.
const impostor = "impostor"

// certificateTTL is what is asked for: nothing renews the files, so it is how long the shop can stay open.
const certificateTTL = 24 * time.Hour

// issuing is how many certificates are got at a time; each takes two short processes.
const issuing = 4

// holder is somebody with an identity. Those who are not services only call.
type holder struct {
	name string
	id   string
}

// holders are all whom writ's authority gives a certificate.
func holders() []holder {
	var all []holder
	for _, m := range members {
		all = append(all, holder{m.name, serviceID(m.name)})
	}
	return append(all,
		holder{"admin-service", serviceID("admin-service")},
		holder{"printer", "spiffe://cluster.local/ns/office/sa/printer"},
	)
}

func serviceID(name string) string { return "spiffe://cluster.local/ns/coffee-shop/sa/" + name }

// identity is where a holder's proof of who it is lies, as `writ cert request` leaves it: PEM files.
type identity struct {
	Key   string
	Chain string // leaf and intermediate
	Roots string // whom to trust
}

// identity returns the files of a holder.
func (s *shop) identity(name string) identity {
	dir := s.file(name)
	return identity{Key: filepath.Join(dir, "key.pem"), Chain: filepath.Join(dir, "cert.pem"), Roots: filepath.Join(dir, "bundle.pem")}
}

// credentials are what a program makes mTLS from.
func (i identity) credentials() (*x509svid.SVID, *x509bundle.Bundle, error) {
	own, err := x509svid.Load(i.Chain, i.Key)
	if err != nil {
		return nil, nil, err
	}
	trusted, err := x509bundle.Load(spiffeid.RequireTrustDomainFromString("cluster.local"), i.Roots)
	return own, trusted, err
}

// issue gives every holder a certificate of writ's own authority.
func (s *shop) issue(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(issuing)
	for _, h := range holders() {
		group.Go(func() error {
			if err := s.join(ctx, h); err != nil {
				return fmt.Errorf("no certificate for %s: %w", h.name, err)
			}
			return s.writeCurl(h.name)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return s.forge()
}

// join is how a node comes by its first certificate: its operator makes a token, and the node uses it up.
func (s *shop) join(ctx context.Context, h holder) error {
	token := h.name + ".token"
	if _, err := s.run(ctx, "token", "create", "-c", "writ.yaml", "--id", h.id, "--node", h.name, "--out", token); err != nil {
		return err
	}
	if _, err := s.run(ctx, "cert", "request", "--authority", local(s.ports[portAuthority]), "--bundle", "state/bundle.pem",
		"--token-file", token, "--ttl", certificateTTL.String(), "--out", h.name); err != nil {
		return err
	}
	return os.Remove(s.file(token))
}

// writeCurl writes what makes curl ask in somebody's name.
func (s *shop) writeCurl(name string) error {
	i := s.identity(name)
	text := fmt.Sprintf(`# curl -K this: asks as %s
cert = %q
key = %q
# The certificate that answers names a workload, spiffe://…, and no host, which is all that curl can check. The Envoys of
# the shop do check it.
insecure
`, name, i.Chain, i.Key)
	return os.WriteFile(filepath.Join(s.file(name), "curl.conf"), []byte(text), 0o600)
}

// forge makes the impostor's certificate, which trusts the same roots as everybody's.
func (s *shop) forge() error {
	own, err := testkit.NewCA("Not the coffee shop")
	if err != nil {
		return err
	}
	leaf, err := own.Leaf(testkit.Names{URIs: []string{serviceID("customer-service")}})
	if err != nil {
		return err
	}
	file := s.file(impostor + ".pem")
	s.forged = identity{Key: file, Chain: file, Roots: s.file("state/bundle.pem")}
	return testkit.WriteLeaf(leaf, file)
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
		issued[c.ID.String()] = c
	}
	fmt.Fprint(out, "\nwrit's own authority has issued these certificates, each for a join token that is good once:\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "   holder\tidentity\tserial number\tuntil")
	for _, h := range holders() {
		c, ok := issued[h.id]
		if !ok {
			return fmt.Errorf("%s is not in the ledger", h.id)
		}
		fmt.Fprintf(w, "   %s\t%s\t%s\t%s\n", h.name, h.id, c.Serial, c.NotAfter.Local().Format("Mon 15:04"))
	}
	fmt.Fprintf(w, "   %s\t%s\t(made by itself)\n", impostor, serviceID("customer-service"))
	return w.Flush()
}
