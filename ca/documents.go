package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// The documents an authority keeps in its [State]. Every write is conditional on the version that was read, so that of
// two replicas, or a replica and an operator, one wins and the other looks again.
const (
	docRoots   = "ca/roots"   // roots, with their keys unless offline, and the rotation they are in; shared
	docIssuers = "ca/issuers" // every certificate that signs leaves, of all replicas; shared
	docPlugged = "ca/plugged" // what is known of a plugged-in authority's bundle; shared
	docSigner  = "ca/signer/" // + replica: its signing keys
	docCRL     = "ca/crl/"    // + issuer: the CRL and its number

	documentFormat = 1
	maxDocument    = 1 << 20
)

// RootState is where a root stands in a rotation. The states of the roots are the state of the rotation: there is no
// second record that could disagree.
type RootState string

// A root goes from prepared to published to active, and from there, when another takes its place, to retiring and
// tainted; then it is removed.
const (
	RootPrepared  RootState = "prepared"  // made, not in the bundle
	RootPublished RootState = "published" // in the bundle, signs nothing yet
	RootActive    RootState = "active"    // in the bundle, signs intermediates
	RootRetiring  RootState = "retiring"  // in the bundle, signs no more
	RootTainted   RootState = "tainted"   // in the bundle, leaves under it are renewed at once
)

func (s RootState) inBundle() bool { return s != RootPrepared }

type rootsDoc struct {
	Format      int         `json:"format"`
	TrustDomain spiffeid.ID `json:"trust_domain"`
	Bundle      int64       `json:"bundle"` // version
	Roots       []rootDoc   `json:"roots"`  // oldest first
}

type rootDoc struct {
	Certificate []byte    `json:"certificate"`
	Key         []byte    `json:"key,omitempty"` // sealed; absent when it is kept elsewhere
	State       RootState `json:"state"`
	Published   time.Time `json:"published"`       // since when in the bundle
	Since       int64     `json:"since,omitempty"` // version of the bundle that it came with
	Activated   time.Time `json:"activated"`       // since when it signs
}

type signerDoc struct {
	Format  int         `json:"format"`
	Issuers []issuerDoc `json:"issuers"` // oldest first
}

type issuerDoc struct {
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"` // sealed
}

type issuersDoc struct {
	Format  int           `json:"format"`
	Issuers []knownIssuer `json:"issuers"`
}

// knownIssuer is a certificate that signs leaves, here or in another replica.
type knownIssuer struct {
	Certificate []byte `json:"certificate"`
	Replica     string `json:"replica"`
}

// caRoot is a root, checked.
type caRoot struct {
	rootDoc
	cert *x509.Certificate
	key  crypto.Signer // nil when it is kept elsewhere
}

// roots is a checked rootsDoc.
type roots struct {
	version int64
	doc     rootsDoc
	list    []caRoot
	bundle  *Bundle
}

// active is the root that signs intermediates.
func (r *roots) active() *caRoot { return r.in(RootActive) }

// in is the root in a state, or nil.
func (r *roots) in(s RootState) *caRoot {
	for i := range r.list {
		if r.list[i].State == s {
			return &r.list[i]
		}
	}
	return nil
}

// ownIssuer is one of this replica's signing certificates, checked.
type ownIssuer struct {
	issuerDoc
	cert *x509.Certificate
	key  *signer
}

// since is the version of the bundle that a root came with: whoever has that or a later one trusts it. Taint and rollback
// change the version and not the roots, so that nobody may ever acknowledge those. It is the present version for a root
// of before versions were noted.
func (r *roots) since(root *caRoot) int64 {
	if root.Since == 0 {
		return r.doc.Bundle
	}
	return root.Since
}

// readDoc reads a JSON document; version 0 says that there is none.
func readDoc[T any](ctx context.Context, s State, key string) (doc T, version int64, err error) {
	value, version, err := s.Get(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return doc, 0, nil
	case err != nil:
		return doc, 0, fmt.Errorf("read %s: %w", key, err)
	case len(value) > maxDocument:
		return doc, 0, fmt.Errorf("%w: %s has %d bytes, more than %d", ErrCorrupt, key, len(value), maxDocument)
	}
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return doc, 0, fmt.Errorf("%w: %s: %v", ErrCorrupt, key, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return doc, 0, fmt.Errorf("%w: %s: text after the document", ErrCorrupt, key)
	}
	return doc, version, nil
}

func writeDoc(ctx context.Context, s State, key string, doc any, version int64) error {
	value, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	if err := s.Put(ctx, key, value, version); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// readRoots reads and checks the roots; nil when there are none.
func readRoots(ctx context.Context, s State, keys *Keyring, trustDomain spiffeid.ID) (*roots, error) {
	doc, version, err := readDoc[rootsDoc](ctx, s, docRoots)
	if err != nil || version == 0 {
		return nil, err
	}
	if doc.Format != documentFormat {
		return nil, fmt.Errorf("%w: %s has format %d, this program writes %d", ErrCorrupt, docRoots, doc.Format, documentFormat)
	}
	if doc.TrustDomain != trustDomain {
		return nil, fmt.Errorf("the authority is that of %s, the configuration says %s", doc.TrustDomain, trustDomain)
	}
	r := &roots{version: version, doc: doc}
	count := map[RootState]int{}
	for _, d := range doc.Roots {
		root, err := openRoot(d, keys)
		if err != nil {
			return nil, err
		}
		count[d.State]++
		r.list = append(r.list, root)
	}
	if count[RootActive] != 1 || count[RootPrepared]+count[RootPublished]+count[RootRetiring]+count[RootTainted] > 1 {
		return nil, fmt.Errorf("%w: %s: roots in states %v", ErrCorrupt, docRoots, count)
	}
	r.bundle, err = bundleOf(r)
	return r, err
}

func openRoot(d rootDoc, keys *Keyring) (caRoot, error) {
	cert, err := x509.ParseCertificate(d.Certificate)
	if err != nil {
		return caRoot{}, fmt.Errorf("%w: a root: %v", ErrCorrupt, err)
	}
	root := caRoot{rootDoc: d, cert: cert}
	if len(d.Key) > 0 {
		if root.key, err = keys.open(d.Key, cert.SubjectKeyId); err != nil {
			return caRoot{}, fmt.Errorf("root %s: %w", describe(cert), err)
		}
		if err := newSigner(root.key).matches(cert); err != nil {
			return caRoot{}, fmt.Errorf("%w: root: %v", ErrCorrupt, err)
		}
	}
	return root, nil
}

// bundleOf lists the published roots, oldest first: its bytes change when a root comes or goes, and only then.
func bundleOf(r *roots) (*Bundle, error) {
	var list []Root
	for _, root := range r.list {
		if root.State.inBundle() {
			list = append(list, Root{Certificate: root.cert, Tainted: root.State == RootTainted})
		}
	}
	return newBundle(r.doc.TrustDomain, r.doc.Bundle, list)
}

// readSigners reads and checks the signing certificates of this replica, oldest first.
func readSigners(ctx context.Context, s State, keys *Keyring, replica string) ([]ownIssuer, int64, error) {
	key := docSigner + replica
	doc, version, err := readDoc[signerDoc](ctx, s, key)
	if err != nil || version == 0 {
		return nil, 0, err
	}
	if doc.Format != documentFormat {
		return nil, 0, fmt.Errorf("%w: %s has format %d, this program writes %d", ErrCorrupt, key, doc.Format, documentFormat)
	}
	var list []ownIssuer
	for _, d := range doc.Issuers {
		cert, err := x509.ParseCertificate(d.Certificate)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: an intermediate: %v", ErrCorrupt, err)
		}
		private, err := keys.open(d.Key, cert.SubjectKeyId)
		if err != nil {
			return nil, 0, fmt.Errorf("intermediate %s: %w", describe(cert), err)
		}
		own := ownIssuer{issuerDoc: d, cert: cert, key: newSigner(private)}
		if err := own.key.matches(cert); err != nil {
			return nil, 0, fmt.Errorf("%w: intermediate: %v", ErrCorrupt, err)
		}
		list = append(list, own)
	}
	return list, version, nil
}
