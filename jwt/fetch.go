package jwt

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

// Bounds on what a key server sends, besides those of limits.go, and on what fetching takes of this process.
const (
	maxSourceURLBytes   = 2048 // Istio's own bound on jwksUri
	maxDiscoveryBytes   = 256 << 10
	maxAnswerHeadBytes  = 64 << 10 // status line and headers, interim answers included
	maxAnswerBodyBytes  = 4 << 20  // with chunk headers and trailers
	maxInterimAnswers   = 5
	maxRedirects        = 3
	maxCABundleBytes    = 1 << 20
	maxConcurrentFetch  = 8 // requests under way, all sources together
	maxAttemptTimeout   = 30 * time.Second
	defaultFetchTimeout = 5 * time.Second // of JWTRule.timeout
)

// target is one address to fetch keys from.
type target struct {
	url    string // of the key set; empty: discover it
	issuer string // to discover, only if url is empty
	ca     string // file with the CA certificates trusted besides the system's, empty: none
}

// host is whom an attempt asks first, as far as the URL tells.
func (t target) host() string {
	address := t.url
	if address == "" {
		address = t.issuer
	}
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return strings.ToLower(u.Host)
}

// fetched is what a successful attempt brought.
type fetched struct {
	keys   *KeySet
	header http.Header // of the answer with the keys
}

// fetcher makes single attempts to fetch a key set, within every bound of request-authentication §6.5. It is safe for
// concurrent use and keeps nothing between attempts: each resolves names anew and closes its connections.
type fetcher struct {
	clients   map[string]*http.Client // by CA file
	allowHTTP bool
	filter    *addressFilter
	userAgent string
	slots     chan struct{}
	queue     *hostLocks // who waits for a slot
}

func newFetcher(cfg SourcesConfig) (*fetcher, error) {
	filter, err := newAddressFilter(cfg.Networks)
	if err != nil {
		return nil, err
	}
	f := &fetcher{
		clients:   map[string]*http.Client{},
		allowHTTP: cfg.AllowHTTP,
		filter:    filter,
		userAgent: cfg.UserAgent,
		slots:     make(chan struct{}, maxConcurrentFetch),
		queue:     &hostLocks{held: map[string]chan struct{}{}},
	}
	dialer := &net.Dialer{ControlContext: filter.control, Resolver: cfg.resolver}
	if cfg.Proxy != nil {
		dialer.ControlContext = nil // every connection goes to the proxy, which the operator chose
	}
	hosts := &hostLocks{held: map[string]chan struct{}{}}
	client := func(roots *x509.CertPool) *http.Client {
		return &http.Client{CheckRedirect: f.checkRedirect, Transport: &transport{
			dialer: dialer, proxy: cfg.Proxy, hosts: hosts,
			tls: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, NextProtos: []string{"http/1.1"}},
		}}
	}
	f.clients[""] = client(nil)
	for name, file := range cfg.CABundles {
		if file == "" {
			return nil, fmt.Errorf("CA bundle of %q: no file is named", name)
		}
		if f.clients[file] != nil {
			continue
		}
		roots, err := rootsWith(file)
		if err != nil {
			return nil, fmt.Errorf("CA bundle of %q: %w", name, err)
		}
		f.clients[file] = client(roots)
	}
	return f, nil
}

// rootsWith are the system's roots and the certificates of a PEM file.
func rootsWith(file string) (*x509.CertPool, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	pem, err := io.ReadAll(io.LimitReader(in, maxCABundleBytes+1))
	if err != nil {
		return nil, err
	}
	if len(pem) > maxCABundleBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, maxCABundleBytes)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("the system's CA certificates: %w", err)
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", file)
	}
	return roots, nil
}

// fetch makes one attempt of at most timeout, once one of the process's slots for it is free.
func (f *fetcher) fetch(ctx context.Context, t target, timeout time.Duration) (fetched, error) {
	// A host has one place in the queue, so that a slow one with many key sets does not take all slots from the others.
	host := t.host()
	if err := f.queue.lock(ctx, host); err != nil {
		return fetched{}, err
	}
	defer f.queue.unlock(host)
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-ctx.Done():
		return fetched{}, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client := f.clients[t.ca]
	address := t.url
	if address == "" {
		document, _, err := f.get(ctx, client, discoveryURL(t.issuer), maxDiscoveryBytes)
		if err != nil {
			return fetched{}, err
		}
		if address, err = parseDiscovery(document, t.issuer); err != nil {
			return fetched{}, err
		}
	}
	body, header, err := f.get(ctx, client, address, maxKeySetBytes)
	if err != nil {
		return fetched{}, err
	}
	keys, err := ParseKeySet(body)
	if err != nil {
		return fetched{}, &fetchError{result: FetchBadKeys, detail: describeBody(body, err)}
	}
	return fetched{keys: keys, header: header}, nil
}

// describeBody tells an operator what came instead of keys without quoting any of it, as [ParseKeySet] does not either:
// the address may be one that only this process can read.
func describeBody(body []byte, err error) string {
	switch trimmed := bytes.TrimSpace(body); {
	case len(trimmed) == 0:
		return "the answer is empty"
	case trimmed[0] == '<':
		return fmt.Sprintf("the answer of %d bytes is HTML or XML", len(body))
	case !json.Valid(body):
		return fmt.Sprintf("the answer of %d bytes is not JSON", len(body))
	}
	return err.Error()
}

// get reads one document of at most limit bytes.
func (f *fetcher) get(ctx context.Context, client *http.Client, address string, limit int64) ([]byte, http.Header, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, nil, &fetchError{result: FetchRefusedURL, detail: "not a URL"}
	}
	if e := f.checkURL(u); e != nil {
		return nil, nil, e
	}
	u.Fragment = ""
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, &fetchError{result: FetchRefusedURL, detail: "not a URL"}
	}
	req.Header.Set("User-Agent", f.userAgent)
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, describeError(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, &fetchError{
			result: FetchStatus, detail: fmt.Sprintf("the status is %d, not 200", resp.StatusCode),
			transient: resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests,
		}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, describeError(ctx, err)
	}
	if int64(len(body)) > limit {
		return nil, nil, &fetchError{result: FetchTooLarge, detail: fmt.Sprintf("the answer is larger than %d bytes", limit)}
	}
	return body, resp.Header, nil
}

// checkURL refuses what would be visited in clear, with credentials, or at an address that is written out and refused.
// Names are judged when they are dialled.
func (f *fetcher) checkURL(u *url.URL) *fetchError {
	refuse := func(detail string) *fetchError { return &fetchError{result: FetchRefusedURL, detail: detail} }
	switch {
	case u.Scheme == "http" && !f.allowHTTP:
		return refuse("http is not allowed: anybody on the way could replace the keys")
	case u.Scheme != "http" && u.Scheme != "https":
		return refuse("the scheme is neither https nor http")
	case u.Hostname() == "":
		return refuse("it names no host")
	case u.User != nil:
		return refuse("it holds a user name or password, which are never sent")
	}
	if a, err := netip.ParseAddr(strings.TrimSuffix(u.Hostname(), ".")); err == nil {
		return f.filter.check(a)
	}
	return nil
}

// checkRedirect is the client's; it gets the requests made so far, oldest first.
func (f *fetcher) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return &fetchError{result: FetchRefusedRedirect, detail: fmt.Sprintf("more than %d redirects", maxRedirects)}
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return &fetchError{result: FetchRefusedRedirect, detail: "a redirect leads from https to less"}
	}
	req.Header.Del("Referer")
	if e := f.checkURL(req.URL); e != nil {
		return e
	}
	return nil
}
