package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/testkit/memstore"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/sds"
)

// hotPath is work that is done for every request, stream or certificate. Its instructions are counted in the function
// within, but not in those to step over.
type hotPath struct {
	name   string
	what   string
	ready  func(ctx context.Context) (call func(), err error)
	within string
	over   []string
	rounds int     // the fewest instructions of them count: in others more memory has to be found, for example
	most   float64 // of what is recorded
}

// hotPaths are those whose instructions are counted. Each call checks its answer, and panics if it is not right.
func hotPaths() []hotPath {
	const ours, whole = "github.com/writ-auth/writ/", "main.measured"
	return []hotPath{
		{"policy", "a decision by 10,000 rules, the request at hand", policyPath, whole, nil, 3, 1.05},
		{"token", "a token that was verified before", tokenPath, whole, nil, 3, 1.05},
		{
			"check", "a Check in gRPC's handler: decoding, a token that was verified before, 10,000 rules, encoding", checkPath,
			ours + "authz/extauthz.handleCheck", nil, 1, 1.05,
		},
		{"sds", "a secret, from the bytes of the request to those of the answer", sdsPath, whole, nil, 5, 1.10},
		{
			"issue", "a certificate from its PEM request, with lint, self-check and a ledger in memory, without the cryptography", issuePath, whole,
			[]string{"crypto/ecdsa.VerifyASN1", "crypto/ecdsa.SignASN1", "crypto/internal/fips140/sha256.blockGeneric"}, 1, 1.08,
		},
	}
}

// pathNamed finds a hot path.
func pathNamed(name string) (hotPath, error) {
	for _, p := range hotPaths() {
		if p.name == name {
			return p, nil
		}
	}
	return hotPath{}, fmt.Errorf("no hot path %q", name)
}

// must is for what cannot go wrong twice: a hot path that gives a wrong answer ends the child.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// pathServer makes the deciding part of writ serve for the usual corpus, and one question that it allows.
func pathServer() (*policy.Store, *extauthz.Server, question, error) {
	c, err := newCorpus(manyRules, 10)
	if err != nil {
		return nil, nil, question{}, err
	}
	store := policy.NewStore(policy.Mesh{})
	store.Update(policy.Decode("path.yaml", []byte(c.documents())))
	server, err := extauthz.New(extauthz.Config{
		Snapshot: store.Load, Engine: &authz.Engine{Tokens: authz.Tokens{Cache: jwt.NewCache(cachedTokens, 64<<20)}},
		Observe: func(*extauthz.Observation) {},
	})
	return store, server, c.questions[0], err
}

// pathRequest is the question as the policies see it, with its token verified, and the rules for it.
func pathRequest(ctx context.Context) (*policy.Bound, *policy.Request, *jwt.Validator, *jwt.Input, error) {
	store, _, q, err := pathServer()
	if err != nil {
		return nil, nil, nil, nil, err
	}
	r := &policy.Request{}
	if _, err := extauthz.DecodeRequest(q.raw, extauthz.Options{}, r); err != nil {
		return nil, nil, nil, nil, err
	}
	bound, err := store.Load().Resolve(policy.Workload{Namespace: "shop", Labels: map[string]string{"app": "order"}})
	if err != nil {
		return nil, nil, nil, nil, err
	}
	validator := (&authz.Tokens{Cache: jwt.NewCache(cachedTokens, 64<<20)}).Validator(bound.Authentication)
	in := &jwt.Input{Headers: r.Headers, Method: r.Method, Path: r.RawPath, Host: r.Host, Scheme: r.Scheme, Now: time.Now()}
	var out jwt.Result
	if validator.Validate(ctx, in, &out); out.Token == nil {
		return nil, nil, nil, nil, fmt.Errorf("the token was refused: %v", out.Reason)
	}
	r.Claims = out.Token
	return bound, r, validator, in, nil
}

func policyPath(ctx context.Context) (func(), error) {
	bound, request, _, _, err := pathRequest(ctx)
	return func() {
		if bound.Rules.Evaluate(request).Allow == nil {
			panic("no rule matched")
		}
	}, err
}

func tokenPath(ctx context.Context) (func(), error) {
	_, _, validator, in, err := pathRequest(ctx)
	var out jwt.Result
	return func() {
		if validator.Validate(ctx, in, &out); out.Cached != 1 {
			panic("the token was not in the cache")
		}
	}, err
}

func checkPath(ctx context.Context) (func(), error) {
	_, server, q, err := pathServer()
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() { panic(errors.Join(server.Serve(ctx, listener), errors.New("the server ended"))) }()
	c, err := dial(ctx, listener.Addr().String())
	l := &load{questions: []question{q}, strict: true}
	return func() {
		if err := l.rounds(c, 0, 1, 1); err != nil {
			panic(err)
		}
	}, err
}

// registrar takes what a server registers.
type registrar struct {
	service  *grpc.ServiceDesc
	instance any
}

// RegisterService implements [grpc.ServiceRegistrar].
func (r *registrar) RegisterService(service *grpc.ServiceDesc, instance any) {
	r.service, r.instance = service, instance
}

// sdsPath calls FetchSecrets as gRPC does: what it answers with is encoded as on a stream.
func sdsPath(ctx context.Context) (func(), error) {
	identity, err := selfSigned()
	if err != nil {
		return nil, err
	}
	vault := &sds.Vault{}
	if err := vault.SetIdentity(identity); err != nil {
		return nil, err
	}
	ctx = peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{}})
	server, err := sds.New(sds.Config{
		Vault: vault, Authorizer: anyone{identity.ID}, TrustDomain: must(spiffeid.TrustDomain("cluster.local")), KeysOverNetwork: true,
		Caller: func(context.Context) (*sds.Caller, error) {
			return &sds.Caller{ID: identity.ID, NotAfter: time.Now().Add(time.Hour), Address: "path"}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	raw, err := proto.Marshal(&discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{workload}})
	var r registrar
	server.Register(&r)
	fetch := r.service.Methods[0].Handler
	return func() {
		answer := must(fetch(r.instance, ctx, func(v any) error {
			return v.(interface{ Unmarshal([]byte) error }).Unmarshal(raw)
		}, nil))
		if encoded := must(answer.(interface{ Marshal() ([]byte, error) }).Marshal()); len(encoded) < len(identity.Chain[0].Raw) {
			panic("an answer without the certificate")
		}
	}, err
}

func issuePath(ctx context.Context) (func(), error) {
	csr, err := certificateRequest(workload)
	if err != nil {
		return nil, err
	}
	issue, err := newIssuing(ctx, csr, memstore.New(nil))
	return func() { must(issue()) }, err
}

// certificateRequest is a PEM request for the identity, with a key of its own.
func certificateRequest(identity string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(identity)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{""}}, URIs: []*url.URL{uri},
	}, key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), err
}
