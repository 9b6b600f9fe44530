package jwt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"syscall"
)

// FetchResult is how a fetch of keys ended, one of a few words: fit for a metric's label.
type FetchResult string

// Results of a fetch.
const (
	FetchOK              FetchResult = "ok"
	FetchTimeout         FetchResult = "timeout"          // no complete answer in time
	FetchDNS             FetchResult = "dns"              // the name does not resolve
	FetchConnect         FetchResult = "connect"          // nobody answers there
	FetchTLS             FetchResult = "tls"              // no acceptable certificate or version
	FetchProtocol        FetchResult = "protocol"         // no proper HTTP answer, or cut short
	FetchStatus          FetchResult = "status"           // another status than 200
	FetchTooLarge        FetchResult = "too_large"        // more than the bound on the body
	FetchBadKeys         FetchResult = "bad_keys"         // no JWK Set, or one without a usable key
	FetchBadDiscovery    FetchResult = "bad_discovery"    // no discovery document of this issuer
	FetchRefusedURL      FetchResult = "refused_url"      // a URL that is never visited
	FetchRefusedAddress  FetchResult = "refused_address"  // a network that is not allowed
	FetchRefusedRedirect FetchResult = "refused_redirect" // too many, or to less than https
)

// fetchError is why a fetch failed. Detail is for operators; it quotes nothing that a server sent.
type fetchError struct {
	result    FetchResult
	detail    string
	transient bool // another attempt at once may do
}

func (e *fetchError) Error() string { return string(e.result) + ": " + e.detail }

// describeError turns what net/http returned into a fetchError. The texts of net/http, crypto/x509 and net are not passed
// on, because they quote: a malformed status line is the banner of whatever listens there.
func describeError(ctx context.Context, err error) *fetchError {
	if e, ok := errors.AsType[*fetchError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && ctx.Err() == nil {
		detail := "the name server did not answer"
		if e.IsNotFound {
			detail = "no such host"
		}
		return &fetchError{result: FetchDNS, detail: detail, transient: !e.IsNotFound}
	}
	if e, ok := errors.AsType[net.Error](err); ctx.Err() != nil || (ok && e.Timeout()) {
		return &fetchError{result: FetchTimeout, detail: "no complete answer within the rule's timeout", transient: true}
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return &fetchError{result: FetchConnect, detail: e.Error(), transient: true}
	}
	return &fetchError{result: FetchProtocol, detail: "the answer is not proper HTTP, or was cut short", transient: true}
}

// describeHandshake says what about a TLS handshake failed.
func describeHandshake(ctx context.Context, err error) *fetchError {
	if ctx.Err() != nil {
		return describeError(ctx, err)
	}
	refuse := func(detail string) *fetchError { return &fetchError{result: FetchTLS, detail: detail} }
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return refuse("the certificate is signed by no authority that is trusted for this issuer")
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return refuse("the certificate is for another host")
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return refuse("the certificate has expired or is not yet valid")
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return refuse("the certificate is not acceptable")
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return refuse("the server does not speak TLS")
	}
	return &fetchError{result: FetchTLS, detail: "the handshake failed, or was cut short", transient: true}
}
