package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// fileTTL is the life of certificates in files: nothing renews them.
	fileTTL = 24 * time.Hour

	// issuing is how many commands run at a time.
	issuing = 4
)

// issueFiles leaves, for the user's curl, a certificate of everybody who has not lost the right to one.
func (s *shop) issueFiles(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(issuing)
	for _, h := range holders() {
		if h.name == stolen {
			continue
		}
		group.Go(func() error {
			if err := s.issueFile(ctx, h); err != nil {
				return fmt.Errorf("no certificate for %s: %w", h.name, err)
			}
			return s.writeCurl(h.name)
		})
	}
	return group.Wait()
}

// issueFile gets a certificate without an agent: a token, a key, a request.
func (s *shop) issueFile(ctx context.Context, h holder) error {
	token := filepath.Join(h.name, "curl.token")
	if _, err := s.run(ctx, "token", "create", "-c", "writ.yaml", "--id", h.id, "--out", token); err != nil {
		return err
	}
	if _, err := s.run(ctx, "cert", "request", "--authority", local(s.ports[portAuthority]), "--bundle", "state/bundle.pem",
		"--token-file", token, "--ttl", fileTTL.String(), "--out", h.name); err != nil {
		return err
	}
	return os.Remove(s.file(token))
}

// writeCurl writes what makes curl ask in somebody's name.
func (s *shop) writeCurl(name string) error {
	dir := s.file(name)
	text := fmt.Sprintf(`# curl -K this: asks as %s
cert = %q
key = %q
# The certificate that answers names a workload, spiffe://…, and no host, which is all that curl can check. The Envoys of
# the shop do check it.
insecure
`, name, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	return os.WriteFile(filepath.Join(dir, "curl.conf"), []byte(text), 0o600)
}
