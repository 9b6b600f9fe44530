//go:build pkcs11 && cgo

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"sync"

	p11 "github.com/miekg/pkcs11"
)

const (
	defaultSessions = 4
	maxSessions     = 64
)

// Key is a private key in a device. It is safe for concurrent use until [Key.Close].
type Key struct {
	module   *p11.Ctx
	private  p11.ObjectHandle
	public   crypto.PublicKey
	sessions chan p11.SessionHandle // those that nobody uses

	closing sync.Once
}

// Open loads a module, logs in and finds a key: exactly one pair of halves with the label. The error says which part
// is missing. A PIN that is wrong is tried once only: devices lock after a few.
func Open(c Config) (*Key, error) {
	if c.Sessions == 0 {
		c.Sessions = defaultSessions
	}
	if c.Module == "" || c.Token == "" || c.Label == "" || len(c.PIN) == 0 || c.Sessions < 0 || c.Sessions > maxSessions {
		return nil, fmt.Errorf("PKCS#11: want a module, a token, a label, a PIN and 1 to %d sessions", maxSessions)
	}
	module := p11.New(c.Module)
	if module == nil {
		return nil, fmt.Errorf("PKCS#11: module %s cannot be loaded", c.Module)
	}
	if err := module.Initialize(); err != nil {
		module.Destroy()
		return nil, fmt.Errorf("PKCS#11: module %s: %w", c.Module, err)
	}
	k := &Key{module: module, sessions: make(chan p11.SessionHandle, c.Sessions)}
	if err := k.open(c); err != nil {
		return nil, errors.Join(fmt.Errorf("PKCS#11: token %q: %w", c.Token, err), k.Close())
	}
	return k, nil
}

func (k *Key) open(c Config) error {
	slot, err := k.slot(c.Token)
	if err != nil {
		return err
	}
	for n := range c.Sessions {
		s, err := k.module.OpenSession(slot, p11.CKF_SERIAL_SESSION)
		if err != nil {
			return fmt.Errorf("open a session: %w", err)
		}
		k.sessions <- s
		if n == 0 { // a login holds for all sessions of the program
			if err := k.module.Login(s, p11.CKU_USER, string(c.PIN)); err != nil {
				return fmt.Errorf("log in: %w", err)
			}
		}
	}
	s := <-k.sessions
	defer func() { k.sessions <- s }()
	if k.private, err = k.find(s, p11.CKO_PRIVATE_KEY, c.Label); err != nil {
		return err
	}
	public, err := k.find(s, p11.CKO_PUBLIC_KEY, c.Label)
	if err != nil {
		return err
	}
	k.public, err = k.readPublic(s, public)
	return err
}

// slot finds the one slot whose token has the label.
func (k *Key) slot(label string) (uint, error) {
	slots, err := k.module.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("list the slots: %w", err)
	}
	var found []uint
	for _, s := range slots {
		if info, err := k.module.GetTokenInfo(s); err == nil && info.Label == label {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%d of %d slots hold a token of that label, want one", len(found), len(slots))
	}
	return found[0], nil
}

// find finds the one object of a class that has the label.
func (k *Key) find(s p11.SessionHandle, class uint, label string) (p11.ObjectHandle, error) {
	err := k.module.FindObjectsInit(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_LABEL, label)})
	if err != nil {
		return 0, fmt.Errorf("find key %q: %w", label, err)
	}
	found, _, err := k.module.FindObjects(s, 2)
	if err := errors.Join(err, k.module.FindObjectsFinal(s)); err != nil {
		return 0, fmt.Errorf("find key %q: %w", label, err)
	}
	if len(found) != 1 {
		half := "private"
		if class == p11.CKO_PUBLIC_KEY {
			half = "public"
		}
		return 0, fmt.Errorf("%d %s keys have the label %q, want one", len(found), half, label)
	}
	return found[0], nil
}

// readPublic reads a public key: RSA by modulus and exponent, ECDSA by curve and point.
func (k *Key) readPublic(s p11.SessionHandle, object p11.ObjectHandle) (crypto.PublicKey, error) {
	if a, err := k.module.GetAttributeValue(s, object, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_MODULUS, nil), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, nil),
	}); err == nil {
		e := new(big.Int).SetBytes(a[1].Value)
		if !e.IsInt64() || e.BitLen() > 31 {
			return nil, errors.New("the RSA exponent is too large")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(a[0].Value), E: int(e.Int64())}, nil
	}
	a, err := k.module.GetAttributeValue(s, object, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_EC_PARAMS, nil), p11.NewAttribute(p11.CKA_EC_POINT, nil),
	})
	if err != nil {
		return nil, fmt.Errorf("read the public key, which is neither RSA nor ECDSA: %w", err)
	}
	var point []byte // in an OCTET STRING (PKCS#11 v2.40 §2.3.3)
	if rest, err := asn1.Unmarshal(a[1].Value, &point); err != nil || len(rest) > 0 {
		return nil, errors.New("the ECDSA point is malformed")
	}
	for oid, curve := range map[string]elliptic.Curve{
		"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07": elliptic.P256(), "\x06\x05\x2b\x81\x04\x00\x22": elliptic.P384(),
		"\x06\x05\x2b\x81\x04\x00\x23": elliptic.P521(),
	} {
		if string(a[0].Value) == oid {
			public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
			if err != nil {
				return nil, fmt.Errorf("the ECDSA key: %w", err)
			}
			return public, nil
		}
	}
	return nil, fmt.Errorf("ECDSA on curve %x: want P-256, P-384 or P-521", a[0].Value)
}

// Public is the public half.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign has the device sign a digest: ECDSA, or RSA PKCS#1 v1.5.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() == 0 || len(digest) != opts.HashFunc().Size() {
		return nil, errors.New("PKCS#11: sign: want a digest and its hash")
	}
	if _, pss := opts.(*rsa.PSSOptions); pss {
		return nil, errors.New("PKCS#11: sign: PSS is not supported")
	}
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		raw, err := k.sign(p11.CKM_ECDSA, digest)
		if err != nil {
			return nil, err
		}
		return derSignature(raw, public.Curve)
	case *rsa.PublicKey:
		prefix, err := digestPrefix(opts.HashFunc())
		if err != nil {
			return nil, err
		}
		return k.sign(p11.CKM_RSA_PKCS, append(prefix, digest...))
	default:
		return nil, fmt.Errorf("PKCS#11: sign: key of type %T", public)
	}
}

func (k *Key) sign(mechanism uint, data []byte) ([]byte, error) {
	s, ok := <-k.sessions
	if !ok {
		return nil, errors.New("PKCS#11: sign: the key is closed")
	}
	defer func() { k.sessions <- s }()
	if err := k.module.SignInit(s, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}, k.private); err != nil {
		return nil, fmt.Errorf("PKCS#11: sign: %w", err)
	}
	signature, err := k.module.Sign(s, data)
	if err != nil {
		return nil, fmt.Errorf("PKCS#11: sign: %w", err)
	}
	return signature, nil
}

// derSignature turns r and s, side by side, into the SEQUENCE that certificates have.
func derSignature(raw []byte, curve elliptic.Curve) ([]byte, error) {
	if n := (curve.Params().BitSize + 7) / 8; len(raw) != 2*n {
		return nil, fmt.Errorf("PKCS#11: the device's signature has %d bytes, want %d", len(raw), 2*n)
	}
	half := len(raw) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}

// digestPrefix is what comes before the digest in a DigestInfo (RFC 8017 §9.2, note 1).
func digestPrefix(h crypto.Hash) ([]byte, error) {
	head := []byte{0x30, byte(h.Size() + 17), 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02}
	switch h {
	case crypto.SHA256:
		head = append(head, 1)
	case crypto.SHA384:
		head = append(head, 2)
	case crypto.SHA512:
		head = append(head, 3)
	default:
		return nil, fmt.Errorf("PKCS#11: sign: hash %v: want SHA-256, SHA-384 or SHA-512", h)
	}
	return append(head, 0x05, 0x00, 0x04, byte(h.Size())), nil
}

// Close waits for signatures under way, logs out and lets the module go. It may be called more than once.
func (k *Key) Close() (err error) {
	k.closing.Do(func() { err = k.close() })
	return err
}

func (k *Key) close() error {
	var errs []error
	n := len(k.sessions)
	if k.private != 0 { // open came to its end: all sessions exist, some may be in use
		n = cap(k.sessions)
	}
	for range n {
		errs = append(errs, k.module.CloseSession(<-k.sessions))
	}
	close(k.sessions)
	errs = append(errs, k.module.Finalize())
	k.module.Destroy()
	return errors.Join(errs...)
}
