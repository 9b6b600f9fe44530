package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	requestTimeout   = 30 * time.Second
	maxTokenFileSize = 16 << 10
)

// certificateFlags say which certificate is wanted and by what proof.
type certificateFlags struct {
	authority, serverName string
	bundle, token         string
	id, out               string
	ttl                   time.Duration
	renew                 bool
}

func (c *cli) certRequest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "request --out DIR",
		Short: "Get a certificate from an authority, or renew one",
		Long: "request makes a P-256 key, asks an authority for a certificate for it, verifies the answer and writes key.pem (0600),\n" +
			"cert.pem and bundle.pem to a directory. The key never leaves this machine. The proof of who asks is a join token or a\n" +
			"service account token (--token-file), or with --renew the certificate that is in the directory. It speaks the protocol\n" +
			"of Istio's agents; agents renew by themselves, this does it once.\n\n" +
			"The files are links by way of DIR/..data, which names the directory that has all three, and a renewal replaces that\n" +
			"link alone: who resolves it once never reads a key and a certificate that do not fit.\n\n" +
			"Exit codes: 0 written, 2 the authority says no, 1 failed.",
		Example: "  writ cert request --authority 127.0.0.1:8081 --bundle state/bundle.pem --token-file token --out order\n" +
			"  writ cert request --authority 127.0.0.1:8081 --renew --out order",
		Args: cobra.NoArgs,
	}
	f := &certificateFlags{}
	cmd.Flags().StringVar(&f.authority, "authority", "", "`address` of the authority's ca.listen, host:port")
	cmd.Flags().StringVar(&f.serverName, "server-name", "", "`name` that the authority's certificate must have; the host of --authority if not given")
	cmd.Flags().StringVar(&f.bundle, "bundle", "", "PEM `file` with the roots to trust; with --renew those of the directory")
	cmd.Flags().StringVar(&f.token, "token-file", "", "`file` with the token that proves who asks")
	cmd.Flags().StringVar(&f.id, "id", "", "the identity `spiffe://…` to ask for, among those of the token; its first if not given")
	cmd.Flags().StringVar(&f.out, "out", "", "`directory` to write to")
	cmd.Flags().DurationVar(&f.ttl, "ttl", 0, "lifetime to ask for; the authority's default if not given")
	cmd.Flags().BoolVar(&f.renew, "renew", false, "prove who asks by the certificate in the directory, and replace it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout)
		defer cancel()
		return c.requestCertificate(ctx, f)
	}
	return cmd
}

func (f *certificateFlags) check() error {
	switch {
	case f.authority == "":
		return usagef("cert request: whom to ask? --authority host:port")
	case !isHostPort(f.authority):
		return usagef("cert request: --authority %q: want host:port, such as 127.0.0.1:8081", f.authority)
	case f.out == "":
		return usagef("cert request: where to? --out DIR")
	case f.renew == (f.token != ""):
		return usagef("cert request: want a proof of who asks: --token-file FILE, or --renew to use the certificate in %s", f.out)
	case f.bundle == "" && !f.renew:
		return usagef("cert request: whom to trust? --bundle FILE with the authority's roots, as writ ca bundle prints them")
	case f.ttl < 0 || f.ttl%time.Second != 0:
		return usagef("cert request: --ttl %v: want whole seconds", f.ttl)
	}
	if f.id != "" {
		if _, err := spiffeid.Parse(f.id); err != nil {
			return usagef("cert request: --id: %w", err)
		}
	}
	return nil
}

// requestCertificate does the whole exchange. What is in the directory changes only when all of it is good.
func (c *cli) requestCertificate(ctx context.Context, f *certificateFlags) error {
	if !f.renew && certificateDir(f.out).exists() {
		return fmt.Errorf("%s has a key already: --renew replaces it, or choose another directory", f.out)
	}
	config, err := f.transport()
	if err != nil {
		return err
	}
	made, err := f.obtain(ctx, config)
	if err != nil {
		return err
	}
	if err := certificateDir(f.out).write(made); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "%s until %s: %s, %s, %s\n", made.id, made.notAfter.UTC().Format(time.RFC3339),
		filepath.Join(f.out, keyFile), filepath.Join(f.out, certFile), filepath.Join(f.out, bundleFile))
	return err
}

// obtain gets a certificate for a new key, and checks it.
func (f *certificateFlags) obtain(ctx context.Context, config *tls.Config) (*madeCertificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	chain, err := f.exchange(ctx, config, key)
	if err != nil {
		return nil, err
	}
	made, err := f.accept(chain, key)
	if err != nil {
		return nil, fmt.Errorf("the authority's answer is not what was asked for: %w", err)
	}
	return made, nil
}

// exchange sends the request and returns the chain of the answer.
func (f *certificateFlags) exchange(ctx context.Context, config *tls.Config, key *ecdsa.PrivateKey) ([]string, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	fields := map[string]any{}
	if f.id != "" {
		fields["ImpersonatedIdentity"] = f.id
	}
	meta, err := structpb.NewStruct(fields)
	if err != nil {
		return nil, err
	}
	if f.token != "" {
		token, err := readBounded(f.token, maxTokenFileSize)
		if err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		if token = bytes.TrimSpace(token); len(token) == 0 {
			return nil, fmt.Errorf("token: %s is empty", f.token)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+string(token))
	}
	way := &watchedWay{TransportCredentials: credentials.NewTLS(config)}
	conn, err := grpc.NewClient(f.authority, grpc.WithTransportCredentials(way), grpc.WithContextDialer(way.dial))
	if err != nil {
		return nil, usagef("cert request: --authority %q: %w", f.authority, err)
	}
	defer func() { _ = conn.Close() }()
	response, err := securityv1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, &securityv1.IstioCertificateRequest{
		Csr:              string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		ValidityDuration: int64(f.ttl / time.Second), Metadata: meta,
	})
	if err != nil {
		return nil, f.refused(err, way.why())
	}
	return response.GetCertChain(), nil
}

// madeCertificate is a certificate that was checked, with its key.
type madeCertificate struct {
	id       spiffeid.ID
	notAfter time.Time
	key      []byte // PEM
	chain    []byte // PEM, leaf first, without roots
	bundle   []byte // PEM
}

// accept checks the answer: a chain for our key and the identity that was asked for, under the roots that came with it.
// Those may be newer than the ones we know: that is how clients learn of a new root, from an authority that is proven.
func (f *certificateFlags) accept(chain []string, key *ecdsa.PrivateKey) (*madeCertificate, error) {
	if len(chain) < 2 {
		return nil, fmt.Errorf("a chain of %d elements", len(chain))
	}
	made := &madeCertificate{bundle: []byte(chain[len(chain)-1])}
	for _, element := range chain[:len(chain)-1] {
		made.chain = append(made.chain, element...)
	}
	certs, err := parseCertificates(made.chain)
	if err != nil {
		return nil, err
	}
	leaf := certs[0]
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("it is for another key")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(made.bundle) {
		return nil, errors.New("no roots came with it")
	}
	if err := verifyChain(certs, roots, time.Now()); err != nil {
		return nil, err
	}
	names, err := uriNames(leaf)
	if err != nil || len(names) != 1 {
		return nil, fmt.Errorf("%d URI names", len(names))
	}
	if made.id, err = spiffeid.Parse(names[0]); err != nil {
		return nil, err
	}
	if f.id != "" && made.id.String() != f.id {
		return nil, fmt.Errorf("it is for %s", made.id)
	}
	made.notAfter = leaf.NotAfter
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	made.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return made, nil
}
