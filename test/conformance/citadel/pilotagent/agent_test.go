package pilotagent_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-auth/writ/test/conformance/citadel/internal/built"
)

const (
	agentEnv = "PILOT_AGENT"
	agentPkg = "istio.io/istio/pilot/cmd/pilot-agent"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run has the tests use $PILOT_AGENT, or else a pilot-agent that is built for them.
func run(m *testing.M) int {
	if os.Getenv(agentEnv) != "" {
		return built.Main(m)
	}
	dir, err := os.MkdirTemp("", "pilot-agent-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "pilot-agent")
	if err := built.Build(".", path, agentPkg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := os.Setenv(agentEnv, path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return built.Main(m)
}

// agent is a pilot-agent that serves no Envoy and keeps files: identity §3.3, recipe B.
type agent struct {
	t       *testing.T
	certs   string // directory of cert-chain.pem, key.pem and root-cert.pem
	process *built.Process
}

// start runs pilot-agent as order of namespace coffee-shop. It keeps its files in certs. Its proof of who it is is the
// token, unless that is empty; more is added to its environment.
func start(t *testing.T, a *built.Authority, certs, token string, more ...string) *agent {
	t.Helper()
	program, err := filepath.Abs(os.Getenv(agentEnv))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if token != "" {
		write(t, filepath.Join(dir, "var/run/secrets/tokens/istio-token"), []byte(token))
	}
	write(t, filepath.Join(dir, "var/run/secrets/istio/root-cert.pem"), a.Roots())
	cmd := exec.Command(program, "proxy", "sidecar")
	cmd.Dir = dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir,
		"CA_ADDR=" + a.Address, "TRUST_DOMAIN=" + built.TrustDomain, "POD_NAME=order-1", "POD_NAMESPACE=coffee-shop",
		"SERVICE_ACCOUNT=order", "ISTIO_META_CLUSTER_ID=c1", "INSTANCE_IP=127.0.0.1", "ECC_SIGNATURE_ALGORITHM=ECDSA",
		"DISABLE_ENVOY=true", "GRPC_XDS_BOOTSTRAP=" + filepath.Join(dir, "boot.json"), "OUTPUT_CERTS=" + certs,
		// There is no istiod: the agent goes on trying.
		fmt.Sprintf(`PROXY_CONFIG={"discoveryAddress":%q,"statusPort":%d,"configPath":%q}`, a.Address, freePort(t), filepath.Join(dir, "cfg")),
	}, more...)
	return &agent{t: t, certs: certs, process: built.StartProcess(t, "pilot-agent", cmd, func(string) {})}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// read returns the certificate and the roots in the files, once they fit together: the agent writes one after the other.
func (g *agent) read() (leaf *x509.Certificate, roots []*x509.Certificate, err error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(g.certs, "cert-chain.pem"), filepath.Join(g.certs, "key.pem"))
	if err != nil {
		return nil, nil, err
	}
	if _, ok := pair.PrivateKey.(*ecdsa.PrivateKey); !ok {
		return nil, nil, fmt.Errorf("the key is a %T", pair.PrivateKey)
	}
	text, err := os.ReadFile(filepath.Join(g.certs, "root-cert.pem"))
	if err != nil {
		return nil, nil, err
	}
	roots, anchors, between := built.Certificates(g.t, text), x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		anchors.AddCert(c)
	}
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, err
		}
		between.AddCert(c)
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: anchors, Intermediates: between})
	return pair.Leaf, roots, err
}

// settle is how long the files may contradict each other, on a busy machine.
const settle = 5 * time.Second

// fresh demands a good certificate in the files, now and whenever it is called.
func (g *agent) fresh() (leaf *x509.Certificate, roots []*x509.Certificate) {
	g.t.Helper()
	g.until(settle, "certificate that is good in the files", func() (err error) {
		leaf, roots, err = g.read()
		return err
	})
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != order {
		g.t.Fatalf("a certificate for %v", leaf.URIs)
	}
	return leaf, roots
}

// first waits for the files.
func (g *agent) first() (leaf *x509.Certificate) {
	g.t.Helper()
	g.until(patience, "first certificate", func() (err error) {
		leaf, _, err = g.read()
		return err
	})
	return leaf
}

// renewed waits for a certificate with another serial number and another key, and demands good ones all the while.
func (g *agent) renewed(last *x509.Certificate) (leaf *x509.Certificate) {
	g.t.Helper()
	g.until(life, "renewed certificate", func() error {
		if leaf, _ = g.fresh(); leaf.SerialNumber.Cmp(last.SerialNumber) == 0 {
			return errors.New("it is still the old one")
		}
		return nil
	})
	g.t.Logf("renewed with %v left of %v", time.Until(last.NotAfter).Round(100*time.Millisecond), life)
	if leaf.PublicKey.(*ecdsa.PublicKey).Equal(last.PublicKey) {
		g.t.Error("the renewed certificate has the old key")
	}
	return leaf
}

// until tries until there is no error, as long as pilot-agent runs.
func (g *agent) until(patience time.Duration, what string, try func() error) {
	g.t.Helper()
	built.Until(g.t, patience, what, func() error {
		err := try()
		select {
		case <-g.process.Done():
			g.t.Fatalf("no %s (%v): pilot-agent has ended; its last words are above", what, err)
		default:
		}
		return err
	})
}
