package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/writ-auth/writ/ca/caserver"
)

const (
	orderID   = "spiffe://cluster.local/ns/coffee-shop/sa/order"
	paymentID = "spiffe://cluster.local/ns/coffee-shop/sa/payment"

	caOnly = `
state: ./state
ca: {listen: "127.0.0.1:0"}
admin: unix:admin.sock
diagnostics: 127.0.0.1:0
`
	caAndAuthz = caOnly + `
documents: ./policies
authz: {listen: unix:authz.sock}
`
)

// command runs a writ command in dir, which must end with the given exit code, and returns stdout and stderr.
func command(t *testing.T, dir string, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	got, stdout, stderr := tryCommand(t, dir, args...)
	if got != code {
		t.Fatalf("writ %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
	}
	return stdout, stderr
}

// tryCommand runs a writ command in dir.
func tryCommand(t *testing.T, dir string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := writ(t, args...)
	cmd.Dir = dir
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	if failed := cmd.Run(); failed != nil {
		exit, ok := errors.AsType[*exec.ExitError](failed)
		if !ok {
			t.Fatalf("writ %s: %v", strings.Join(args, " "), failed)
		}
		code = exit.ExitCode()
	}
	return code, out.String(), err.String()
}

// serveCA starts an authority with a configuration of its own and waits until it is ready.
func serveCA(t *testing.T, config string, files map[string]string) *authorityProcess {
	t.Helper()
	all := map[string]string{"writ.yaml": config, "policies/order.yaml": allowCustomer}
	maps.Copy(all, files)
	p := serve(t, write(t, t.TempDir(), all))
	p.ready()
	return p
}

// join gets a certificate for an identity by a join token, into a directory of that name.
func (p *authorityProcess) join(out string, ids ...string) {
	p.t.Helper()
	args := []string{"token", "create", "-c", "writ.yaml", "--out", out + ".token"}
	for _, id := range ids {
		args = append(args, "--id", id)
	}
	command(p.t, p.dir, 0, args...)
	command(p.t, p.dir, 0, "cert", "request", "--authority", p.address("ca"), "--bundle", "state/bundle.pem", "--token-file", out+".token", "--out", out)
}

// renew renews the certificate in a directory by itself.
func (p *authorityProcess) renew(code int, out string) (stdout, stderr string) {
	p.t.Helper()
	return command(p.t, p.dir, code, "cert", "request", "--authority", p.address("ca"), "--renew", "--out", out)
}

// list is the answer of writ ca list.
func (p *authorityProcess) list(args ...string) []caserver.Certificate {
	p.t.Helper()
	out, _ := command(p.t, p.dir, 0, append([]string{"ca", "list", "-c", "writ.yaml", "-o", "json", "--limit", "10000"}, args...)...)
	var r caserver.ListResponse
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		p.t.Fatal(err)
	}
	return r.Certificates
}

// asOrder is a request to the order service by a workload with this certificate.
func asOrder(t *testing.T, id, certFile string) *authv3.CheckRequest {
	t.Helper()
	data, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	r := question("GET", "/orders")
	r.Attributes.Source.Principal = id
	r.Attributes.Source.Certificate = url.PathEscape(string(pem.EncodeToMemory(block)))
	return r
}

const allowAll = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: coffee-shop}
spec: {rules: [{}]}
`

// TestCertificateLife follows a certificate from a join token to its revocation, across a restart.
func TestCertificateLife(t *testing.T) {
	t.Parallel()
	p := serveCA(t, caAndAuthz, map[string]string{"policies/order.yaml": allowAll})
	p.join("order", orderID, paymentID)

	for file, mode := range map[string]os.FileMode{"state": 0o700, "state/ledger.db": 0o600, "state/bundle.pem": 0o644, "order/key.pem": 0o600, "order.token": 0o600} {
		if info, err := os.Stat(filepath.Join(p.dir, file)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v (%v), want %v", file, info.Mode().Perm(), err, mode)
		}
	}
	text, _ := command(t, p.dir, 0, "cert", "order/cert.pem", "--bundle", "order/bundle.pem", "--fail-on", "warning")
	if !strings.Contains(text, orderID) || !strings.Contains(text, "VERIFIED") {
		t.Errorf("writ cert:\n%s", text)
	}
	// The token is used up.
	_, refused := command(t, p.dir, 2, "cert", "request", "--authority", p.address("ca"), "--bundle", "state/bundle.pem", "--token-file", "order.token", "--out", "again")
	if !strings.Contains(refused, "Unauthenticated") {
		t.Errorf("a replayed token: %s", refused)
	}
	first := p.list("--id", orderID)
	p.renew(0, "order")
	// The same node asks for the other identity of its token, and for one that is not.
	command(t, p.dir, 0, "cert", "request", "--authority", p.address("ca"), "--renew", "--out", "order", "--id", paymentID)
	command(t, p.dir, 2, "cert", "request", "--authority", p.address("ca"), "--renew", "--out", "order", "--id", "spiffe://cluster.local/ns/coffee-shop/sa/admin")
	if live := p.list("--live", "--id", orderID); len(first) != 1 || len(live) != 2 || live[1].Serial != first[0].Serial {
		t.Errorf("%d live certificates of order, %d before the renewal", len(live), len(first))
	}

	check := asOrder(t, paymentID, filepath.Join(p.dir, "order", "cert.pem"))
	p.answers(check, http.StatusOK)
	command(t, p.dir, 0, "ca", "revoke", "-c", "writ.yaml", "--id", paymentID, "--reason", "keyCompromise")
	p.answers(check, http.StatusForbidden)
	p.metric(`writ_check_total{decision="deny",layer="revoked",reason="revoked"} 1`)
	if _, refused := p.renew(2, "order"); !strings.Contains(refused, "PermissionDenied") {
		t.Errorf("a renewal of what is revoked: %s", refused)
	}
	p.metricsDocumented()
	p.stop()

	// All of it outlives the process.
	p = serve(t, p.dir)
	p.ready()
	p.answers(check, http.StatusForbidden)
	p.renew(2, "order")
	if live := p.list("--live", "--id", orderID); len(live) != 2 {
		t.Errorf("%d live certificates after a restart", len(live))
	}
	command(t, p.dir, 0, "ca", "revoke", "-c", "writ.yaml", "--id", paymentID, "--lift")
	p.answers(check, http.StatusOK)
	p.renew(0, "order")
	command(t, p.dir, 0, "ca", "verify", "-c", "writ.yaml")
	p.stop()
}

// TestRevokeBySerialAndKey denies requests by the certificate that the proxy passes on.
func TestRevokeBySerialAndKey(t *testing.T) {
	t.Parallel()
	p := serveCA(t, caAndAuthz, map[string]string{"policies/order.yaml": allowAll})
	p.join("order", orderID)
	p.join("payment", paymentID)
	for what, id := range map[string]string{"order": orderID, "payment": paymentID} {
		check := asOrder(t, id, filepath.Join(p.dir, what, "cert.pem"))
		p.answers(check, http.StatusOK)
		entry := p.list("--id", id)[0]
		if what == "order" {
			command(t, p.dir, 0, "ca", "revoke", "-c", "writ.yaml", "--serial", entry.Serial)
		} else {
			command(t, p.dir, 0, "ca", "revoke", "-c", "writ.yaml", "--key", strings.ToUpper(entry.Key))
		}
		p.answers(check, http.StatusForbidden)
		p.renew(2, what)
	}
	command(t, p.dir, 1, "ca", "revoke", "-c", "writ.yaml", "--serial", "1234") // no such certificate
	command(t, p.dir, 64, "ca", "revoke", "-c", "writ.yaml", "--serial", "xyz")
	command(t, p.dir, 64, "ca", "revoke", "-c", "writ.yaml")
	p.stop()
}

// metricsDocumented holds docs/metrics.md to the metrics of the certificate authority.
func (p *authorityProcess) metricsDocumented() {
	p.t.Helper()
	body, err := p.get("/metrics", http.StatusOK)
	if err != nil {
		p.t.Fatal(err)
	}
	docs, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(body) {
		name, isHelp := strings.CutPrefix(line, "# HELP ")
		name, _, _ = strings.Cut(name, " ")
		if isHelp && (strings.HasPrefix(name, "writ_ca_") || strings.HasPrefix(name, "citadel_")) && !strings.Contains(string(docs), "`"+name+"`") {
			p.t.Errorf("docs/metrics.md does not mention %s", name)
		}
	}
}

// TestCAWithoutAuthz has no documents, and needs none to be ready.
func TestCAWithoutAuthz(t *testing.T) {
	t.Parallel()
	p := serveCA(t, caOnly, nil)
	s := p.status()
	if s.CA == nil || !s.CA.Ready || s.CA.Signer == nil || len(s.CA.Roots) != 1 || s.CA.Encrypted || s.CA.Server == nil || len(s.Documents.Documents) != 0 {
		t.Errorf("status %+v", s)
	}
	text, _ := command(t, p.dir, 0, "status", "-c", "writ.yaml")
	for _, want := range []string{"is ready", "ca           127.0.0.1:", "keys not encrypted", "signs with", "rotation stable"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "checks") {
		t.Errorf("an authority that answers no checks shows some:\n%s", text)
	}
	if r := p.reload(); !r.Ready {
		t.Errorf("after a reload: %+v", r)
	}
	p.signal(syscall.SIGHUP)
	p.join("order", orderID)
	p.stop()
	command(t, p.dir, 64, "check", "-c", "writ.yaml", "--to", "coffee-shop/order")
}

// TestRotationDrill replaces the root with a step that is refused, a rollback and overrides on the way: one workload comes
// back for a certificate in time, another never does and has one that outlives the drill.
func TestRotationDrill(t *testing.T) {
	t.Parallel()
	p := serveCA(t, caOnly, nil)
	p.join("order", orderID)
	p.join("payment", paymentID)
	step := func(code int, args ...string) string {
		t.Helper()
		out, _ := command(t, p.dir, code, append([]string{"ca", "rotate"}, append(args, "-c", "writ.yaml")...)...)
		return out
	}
	roots := func() int {
		t.Helper()
		out, _ := command(t, p.dir, 0, "ca", "bundle", "-c", "writ.yaml")
		return strings.Count(out, "BEGIN CERTIFICATE")
	}
	_, refused := command(t, p.dir, 2, "ca", "rotate", "activate", "-c", "writ.yaml")
	if !strings.Contains(refused, "the rotation is not there: it is stable") {
		t.Errorf("activate before prepare: %s", refused)
	}
	step(0, "prepare")
	step(0, "distribute")
	if out := step(2, "activate"); !strings.Contains(out, "REFUSED") || !strings.Contains(out, orderID) || roots() != 2 {
		t.Errorf("activate while somebody lacks the new root:\n%s", out)
	}
	step(0, "rollback")
	if roots() != 1 {
		t.Error("the bundle after a rollback has another root")
	}
	step(0, "prepare")
	step(0, "distribute")
	p.renew(0, "order") // and has the new root
	step(64, "activate", "--override")
	step(0, "activate", "--override", "--reason", "a drill")
	p.renew(0, "order")
	step(0, "taint", "--override", "--reason", "a drill")
	step(0, "revoke", "--override", "--reason", "a drill")
	if roots() != 1 {
		t.Error("the old root is still in the bundle")
	}
	p.renew(0, "order")
	command(t, p.dir, 0, "cert", "order/cert.pem", "--bundle", "order/bundle.pem")
	p.eventually("published", func() error {
		published, err := os.ReadFile(filepath.Join(p.dir, "state", "bundle.pem"))
		if given, _ := os.ReadFile(filepath.Join(p.dir, "order", "bundle.pem")); err == nil && !bytes.Equal(published, given) {
			err = errors.New("it is not the bundle that certificates come with")
		}
		return err
	})
	if out, _ := command(t, p.dir, 0, "ca", "list", "--audit", "-c", "writ.yaml"); strings.Count(out, "override ") != 3 || !strings.Contains(out, "a drill") {
		t.Errorf("the audit log:\n%s", out)
	}
	p.stop()
}

// TestBackupAndRestore is the drill of docs/ca.md, on one machine.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	config := strings.Replace(caOnly, `"127.0.0.1:0"`, `"127.0.0.1:0", key_encryption: {passphrase_file: ./passphrase}`, 1)
	p := serveCA(t, config, map[string]string{"passphrase": "correct horse battery\n"})
	p.join("order", orderID)
	command(t, p.dir, 0, "ca", "backup", "-c", "writ.yaml", "backup.db")
	command(t, p.dir, 1, "ca", "backup", "-c", "writ.yaml", "backup.db") // never over one
	command(t, p.dir, 1, "ca", "restore", "-c", "writ.yaml", "backup.db", "--replace")
	roots, _ := command(t, p.dir, 0, "ca", "bundle", "-c", "writ.yaml")
	p.stop()

	other := write(t, t.TempDir(), map[string]string{"writ.yaml": config, "passphrase": "correct horse battery\n"})
	command(t, other, 0, "ca", "restore", "-c", "writ.yaml", filepath.Join(p.dir, "backup.db"))
	command(t, other, 0, "ca", "verify", "-c", "writ.yaml")
	if again, _ := command(t, other, 0, "ca", "bundle", "-c", "writ.yaml"); again != roots {
		t.Error("the restored authority has other roots")
	}
	if err := os.CopyFS(filepath.Join(other, "order"), os.DirFS(filepath.Join(p.dir, "order"))); err != nil {
		t.Fatal(err)
	}
	q := serve(t, other)
	q.ready()
	q.renew(0, "order")
	q.stop()
}

// TestCARefusesToStart names what is wrong with a state instead of making a new root beside it.
func TestCARefusesToStart(t *testing.T) {
	t.Parallel()
	encrypted := strings.Replace(caOnly, `"127.0.0.1:0"`, `"127.0.0.1:0", key_encryption: {passphrase_file: ./passphrase}`, 1)
	passphrase := map[string]string{"passphrase": "correct horse battery"}
	remove := func(names ...string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			for _, name := range names {
				files, _ := filepath.Glob(filepath.Join(dir, "state", name))
				for _, f := range files {
					if err := os.Remove(f); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	for _, tt := range []struct {
		name, config string
		files        map[string]string
		spoil        func(t *testing.T, dir string)
		want         string
	}{
		{"the ledger is gone", caOnly, nil, remove("ledger.db", "bundle.pem"), "its lock file (-lock) remembers"},
		{"all but the bundle is gone", caOnly, nil, remove("ledger*"), "There was one: state/bundle.pem has its roots"},
		{"the passphrase is another", encrypted, passphrase, func(t *testing.T, dir string) {
			write(t, dir, map[string]string{"passphrase": "another passphrase"})
		}, "the passphrase does not open the key"},
		{"the passphrase is open to all", encrypted, passphrase, func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "passphrase"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "lets others read it"},
		{"the keys are not encrypted", caOnly, passphrase, func(t *testing.T, dir string) {
			write(t, dir, map[string]string{"writ.yaml": encrypted})
		}, "it is stored without one"},
		{"the trust domain is another", caOnly, nil, func(t *testing.T, dir string) {
			write(t, dir, map[string]string{"writ.yaml": caOnly + "\ntrust_domain: other.example\n"})
		}, "cluster.local"},
		{"the ledger is cut short", caOnly, nil, func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "state", "ledger.db"), 4096); err != nil {
				t.Fatal(err)
			}
		}, "ledger"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := serveCA(t, tt.config, tt.files)
			p.stop()
			tt.spoil(t, p.dir)
			_, stderr := command(t, p.dir, 1, "serve", "-c", "writ.yaml")
			if !strings.Contains(stderr, tt.want) {
				t.Errorf("%q is not in\n%s", tt.want, stderr)
			}
		})
	}
}
