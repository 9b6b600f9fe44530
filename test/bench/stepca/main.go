// Command stepca issues certificates with step-ca's library as it comes: the peer that writ's authority is measured
// against. It is a module of its own so that writ does not depend on it.
//
//	stepca REQUEST IDENTITY [DIRECTORY]
//
// REQUEST is a file with a PEM certificate request for the IDENTITY, a URI. With a DIRECTORY certificates are stored in
// step-ca's default database, Badger, in it. The program prints its root and then, for every line with two numbers on
// standard input, issues the first number of certificates, the second number of them at a time, and prints one
// chain; all in DER in base64, separated by spaces.
package main

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"
	"github.com/smallstep/certificates/db"
	"go.step.sm/crypto/jose"
	"go.step.sm/crypto/minica"
)

func main() {
	if len(os.Args) < 3 || len(os.Args) > 4 {
		log.Fatal("usage: stepca REQUEST IDENTITY [DIRECTORY]")
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		log.Fatal(err)
	}
}

func run(file, identity string, database []string) error {
	request, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	signer, root, err := newSigner(request, identity, database)
	if err != nil {
		return err
	}
	fmt.Println(base64.StdEncoding.EncodeToString(root))
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var n, open int
		if _, err := fmt.Sscan(lines.Text(), &n, &open); err != nil {
			return err
		}
		if err := signer.issue(n, open); err != nil {
			return err
		}
	}
	return nil
}

// signer issues for one request.
type signer struct {
	authority *authority.Authority
	request   []byte // PEM
	authorize func() ([]provisioner.SignOption, error)
}

// newSigner makes an authority with a root, an intermediate and one provisioner of keys (JWK), and has tokens of
// it authorize requests beforehand: who asks is not what is compared.
func newSigner(request []byte, identity string, database []string) (*signer, []byte, error) {
	ca, err := minica.New()
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	public := jose.JSONWebKey{Key: key.Public(), KeyID: "bench", Algorithm: jose.ES256, Use: "sig"}
	const host = "ca.example"
	options := []authority.Option{
		authority.WithConfig(&config.Config{
			Address: ":443", DNSNames: []string{host},
			AuthorityConfig: &config.AuthConfig{Provisioners: provisioner.List{&provisioner.JWK{Name: "bench", Type: "JWK", Key: &public}}},
		}),
		authority.WithX509RootCerts(ca.Root), authority.WithX509Signer(ca.Intermediate, ca.Signer), authority.WithQuietInit(),
	}
	if len(database) > 0 {
		stored, err := db.New(&db.Config{Type: "badgerv2", DataSource: database[0]})
		if err != nil {
			return nil, nil, err
		}
		options = append(options, authority.WithDatabase(stored))
	}
	a, err := authority.NewEmbedded(options...)
	if err != nil {
		return nil, nil, err
	}
	authorize := func() ([]provisioner.SignOption, error) {
		token, err := newToken(key, "https://"+host+"/1.0/sign", identity)
		if err != nil {
			return nil, err
		}
		return a.Authorize(provisioner.NewContextWithMethod(context.Background(), provisioner.SignMethod), token)
	}
	return &signer{a, request, authorize}, ca.Root.Raw, nil
}

func newToken(key crypto.Signer, audience, identity string) (string, error) {
	options := new(jose.SignerOptions).WithType("JWT").WithHeader("kid", "bench")
	by, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, options)
	if err != nil {
		return "", err
	}
	return jose.Signed(by).Claims(map[string]any{
		"iss": "bench", "aud": audience, "sub": identity, "sans": []string{identity}, "jti": rand.Text(),
		"iat": time.Now().Unix(), "nbf": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix(),
	}).CompactSerialize()
}

// issue makes n certificates, so many at a time, and prints one of the chains.
func (s *signer) issue(n, open int) error {
	var next atomic.Int64
	var wait sync.WaitGroup
	var last atomic.Pointer[[]byte]
	failed := make([]error, open)
	for i := range open {
		options, err := s.authorize() // which hold what is written to while signing
		if err != nil {
			return err
		}
		wait.Go(func() {
			for next.Add(1) <= int64(n) && failed[i] == nil {
				var chain []byte
				chain, failed[i] = s.once(options)
				last.Store(&chain)
			}
		})
	}
	wait.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	var printed []any
	for block, rest := pem.Decode(*last.Load()); block != nil; block, rest = pem.Decode(rest) {
		printed = append(printed, base64.StdEncoding.EncodeToString(block.Bytes))
	}
	fmt.Println(printed...)
	return nil
}

// once is what step-ca's API does with a request that is authorized: from PEM to PEM.
func (s *signer) once(options []provisioner.SignOption) ([]byte, error) {
	block, _ := pem.Decode(s.request)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	chain, err := s.authority.SignWithContext(context.Background(), request, provisioner.SignOptions{}, options...)
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text, err
}
