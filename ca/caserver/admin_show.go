package caserver

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// ListRequest selects certificates of the ledger, newest first. Fields that are absent do not restrict.
type ListRequest struct {
	ID     spiffeid.ID `json:"id,omitzero"`
	Serial string      `json:"serial,omitempty"` // hex
	Caller string      `json:"caller,omitempty"` // "method:who", whole
	Issuer string      `json:"issuer,omitempty"` // subject key identifier, hex
	Key    string      `json:"key,omitempty"`    // SHA-256 of the SubjectPublicKeyInfo, hex
	Live   bool        `json:"live,omitempty"`   // issued, not expired, not revoked
	After  time.Time   `json:"after,omitzero"`
	Before time.Time   `json:"before,omitzero"`
	Cursor string      `json:"cursor,omitempty"` // from the last page
	Limit  int         `json:"limit,omitempty"`  // 1 to 1000, default 100
	PEM    bool        `json:"pem,omitempty"`    // with the certificates themselves
}

// ListResponse is a page of the ledger.
type ListResponse struct {
	Certificates []Certificate `json:"certificates"`
	Next         string        `json:"next,omitempty"` // cursor; empty at the end
}

// Certificate is an entry of the ledger.
type Certificate struct {
	Serial    string      `json:"serial"`
	ID        spiffeid.ID `json:"id"`
	State     string      `json:"state"` // intended, issued, failed
	Caller    string      `json:"caller"`
	Profile   string      `json:"profile"`
	Issuer    string      `json:"issuer"`
	Key       string      `json:"key"`
	TTLRule   string      `json:"ttl_rule"`
	At        time.Time   `json:"at"`
	NotBefore time.Time   `json:"not_before"`
	NotAfter  time.Time   `json:"not_after"`
	Failure   string      `json:"failure,omitempty"`
	Revoked   *Revocation `json:"revoked,omitempty"`
	PEM       string      `json:"pem,omitempty"`
}

// Revocation is an entry of the deny list.
type Revocation struct {
	Serial string      `json:"serial,omitempty"`
	ID     spiffeid.ID `json:"id,omitzero"`
	Key    string      `json:"key,omitempty"`
	Reason string      `json:"reason"`
	By     string      `json:"by"`
	At     time.Time   `json:"at"`
	Until  time.Time   `json:"until,omitzero"` // when it can be forgotten; absent is never
}

// List returns a page of the ledger.
func (a *Admin) List(ctx context.Context, r ListRequest) (ListResponse, error) {
	q := ca.Query{ID: r.ID, Caller: r.Caller, Issuer: r.Issuer, After: r.After, Before: r.Before, Cursor: r.Cursor, Limit: r.Limit}
	if r.Limit < 0 || r.Limit > maxPage {
		return ListResponse{}, invalid("limit %d: want 1 to %d", r.Limit, maxPage)
	}
	if r.Serial != "" {
		serial, err := ca.ParseSerial(r.Serial)
		if err != nil {
			return ListResponse{}, invalid("%w", err)
		}
		q.Serial = serial
	}
	if r.Key != "" {
		hash, err := parseHash(r.Key)
		if err != nil {
			return ListResponse{}, err
		}
		q.KeyHash = hash
	}
	if r.Live {
		q.LiveAt = a.now()
	}
	entries, next, err := a.store.Find(ctx, q)
	if err != nil {
		return ListResponse{}, err
	}
	out := ListResponse{Certificates: make([]Certificate, 0, len(entries)), Next: next}
	for i := range entries {
		out.Certificates = append(out.Certificates, showEntry(&entries[i], r.PEM))
	}
	return out, nil
}

func showEntry(e *ca.Entry, whole bool) Certificate {
	c := Certificate{
		Serial: e.Serial.String(), ID: e.ID, State: e.State, Caller: e.Caller, Profile: e.Profile, Issuer: e.Issuer,
		Key: hex.EncodeToString(e.KeyHash[:]), TTLRule: e.TTLRule, At: e.At, NotBefore: e.NotBefore, NotAfter: e.NotAfter,
		Failure: e.Failure,
	}
	if e.Revoked != nil {
		shown := showRevocation(*e.Revoked)
		c.Revoked = &shown
	}
	if whole && len(e.Certificate) > 0 {
		c.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.Certificate}))
	}
	return c
}

func showRevocation(r ca.Revocation) Revocation {
	out := Revocation{ID: r.ID, Reason: r.Reason, By: r.By, At: r.At, Until: r.Until}
	if !r.Serial.IsZero() {
		out.Serial = r.Serial.String()
	}
	if r.KeyHash != [32]byte{} {
		out.Key = hex.EncodeToString(r.KeyHash[:])
	}
	return out
}

// Revocations lists the deny list, oldest first.
func (a *Admin) Revocations(ctx context.Context) ([]Revocation, error) {
	list, err := a.store.Revoked(ctx, a.now())
	if err != nil {
		return nil, err
	}
	out := make([]Revocation, 0, len(list))
	for _, r := range list {
		out = append(out, showRevocation(r))
	}
	return out, nil
}

// VerifyResponse says how far the ledger's hash chain holds.
type VerifyResponse struct {
	Records int64  `json:"records"`
	Broken  string `json:"broken,omitempty"` // where and how; empty if it holds
}

// Verify walks the ledger's hash chain. A chain that is broken is an answer, not an error.
func (a *Admin) Verify(ctx context.Context) (VerifyResponse, error) {
	records, err := a.store.Verify(ctx)
	switch {
	case err == nil:
		return VerifyResponse{Records: records}, nil
	case ctx.Err() != nil:
		return VerifyResponse{}, err
	default:
		return VerifyResponse{Records: records, Broken: err.Error()}, nil
	}
}

// EventsRequest selects audit records.
type EventsRequest struct {
	After  time.Time `json:"after,omitzero"`
	Before time.Time `json:"before,omitzero"`
	Limit  int       `json:"limit,omitempty"` // 1 to 1000, default 100
}

// Event is one audit record.
type Event struct {
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	What   string    `json:"what"`
	Detail string    `json:"detail,omitempty"` // a JSON object
}

// Events lists audit records.
func (a *Admin) Events(ctx context.Context, r EventsRequest) ([]Event, error) {
	if r.Limit < 0 || r.Limit > maxPage {
		return nil, invalid("limit %d: want 1 to %d", r.Limit, maxPage)
	}
	if r.Limit == 0 {
		r.Limit = 100
	}
	list, err := a.store.Events(ctx, r.After, r.Before, r.Limit)
	if err != nil {
		return nil, err
	}
	out := make([]Event, 0, len(list))
	for _, e := range list {
		out = append(out, Event(e))
	}
	return out, nil
}

// StatusResponse is what an authority holds.
type StatusResponse struct {
	TrustDomain string        `json:"trust_domain"`
	Replica     string        `json:"replica"`
	Plugged     string        `json:"plugged,omitempty"` // directory of a plugged-in authority
	Ready       bool          `json:"ready"`
	NotReady    string        `json:"not_ready,omitempty"` // why
	Phase       ca.Phase      `json:"phase,omitempty"`     // of a root rotation; absent when plugged in
	Bundle      int64         `json:"bundle"`              // version
	Signer      *Issuer       `json:"signer,omitempty"`
	Roots       []Root        `json:"roots"`
	Revoked     int           `json:"revoked"` // entries of the deny list
	CRLs        []CRL         `json:"crls"`
	Alarms      []Alarm       `json:"alarms"`
	Server      *ServerStatus `json:"server,omitempty"`
}

// Issuer is a certificate that signs.
type Issuer struct {
	Subject   string    `json:"subject"`
	KeyID     string    `json:"key_id"`
	Serial    string    `json:"serial"` // hex
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// Root is a root of the authority's own.
type Root struct {
	Issuer
	State     ca.RootState `json:"state"`
	Offline   bool         `json:"offline,omitempty"` // its key is kept elsewhere
	Published time.Time    `json:"published,omitzero"`
	Activated time.Time    `json:"activated,omitzero"`
}

// CRL is what an issuer revoked.
type CRL struct {
	Issuer     string    `json:"issuer"`
	Number     int64     `json:"number"`
	Entries    int       `json:"entries"`
	NextUpdate time.Time `json:"next_update"`
}

// Alarm is something to look at.
type Alarm struct {
	Code   ca.AlarmCode `json:"code"`
	Detail string       `json:"detail"`
	Since  time.Time    `json:"since"`
}

// ServerStatus is how the listener for certificates fares.
type ServerStatus struct {
	InFlight    int       `json:"in_flight"`
	Certificate string    `json:"certificate,omitempty"` // serial of the server's own
	NotAfter    time.Time `json:"not_after,omitzero"`
}

// Status says what the authority holds and how it fares.
func (a *Admin) Status(ctx context.Context) StatusResponse {
	s := a.authority.Status()
	out := StatusResponse{
		TrustDomain: s.TrustDomain, Replica: s.Replica, Plugged: s.Plugged, Phase: s.Phase, Revoked: s.Revoked,
		Roots: []Root{}, CRLs: []CRL{}, Alarms: []Alarm{},
	}
	if err := a.authority.Ready(ctx); err != nil {
		out.NotReady = err.Error()
	} else {
		out.Ready = true
	}
	if s.Signer != nil {
		signer := showIssuer(s.Signer)
		out.Signer = &signer
	}
	if s.Bundle != nil {
		out.Bundle = s.Bundle.Version
	}
	for _, r := range s.Roots {
		out.Roots = append(out.Roots, Root{
			Issuer: showIssuer(r.Certificate), State: r.State, Offline: r.Offline, Published: r.Published, Activated: r.Activated,
		})
	}
	for _, alarm := range s.Alarms {
		out.Alarms = append(out.Alarms, Alarm{Code: alarm.Code, Detail: alarm.Detail, Since: alarm.Since})
	}
	for _, c := range s.CRLs {
		out.CRLs = append(out.CRLs, CRL{Issuer: c.Issuer, Number: c.Number, Entries: c.Entries, NextUpdate: c.NextUpdate})
	}
	if a.server != nil {
		out.Server = &ServerStatus{InFlight: a.server.InFlight()}
		if h := a.server.identity.now.Load(); h != nil {
			out.Server.Certificate, out.Server.NotAfter = hex.EncodeToString(h.tls.Leaf.SerialNumber.Bytes()), h.until
		}
	}
	return out
}

func showIssuer(c *x509.Certificate) Issuer {
	return Issuer{
		Subject: c.Subject.String(), KeyID: hex.EncodeToString(c.SubjectKeyId), Serial: hex.EncodeToString(c.SerialNumber.Bytes()),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}
}

// BundleResponse is what the trust domain trusts.
type BundleResponse struct {
	TrustDomain string          `json:"trust_domain"`
	Version     int64           `json:"version"`
	PEM         string          `json:"pem"`
	SPIFFE      json.RawMessage `json:"spiffe"` // [SPIFFEBundle]
}

// Bundle returns the roots; [ca.ErrNotReady] if there are none.
func (a *Admin) Bundle() (BundleResponse, error) {
	b := a.authority.Bundle()
	if b == nil {
		return BundleResponse{}, ca.ErrNotReady
	}
	document, err := SPIFFEBundle(b, a.authority.JWTKeys())
	if err != nil {
		return BundleResponse{}, err
	}
	return BundleResponse{TrustDomain: b.TrustDomain.TrustDomain(), Version: b.Version, PEM: string(b.PEM), SPIFFE: document}, nil
}
