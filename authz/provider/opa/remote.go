package opa

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// remote is a bundle at a URL.
type remote struct {
	config *Config
	client *http.Client
}

// maxRedirects is how many redirects of a bundle server are followed, to https only.
const maxRedirects = 5

func newRemote(c *Config) (*remote, error) {
	transport := &http.Transport{
		MaxIdleConns: 1, MaxResponseHeaderBytes: 64 << 10, TLSHandshakeTimeout: fetchTimeout, ForceAttemptHTTP2: true,
		DisableKeepAlives: true, // asked about once a minute
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if c.CA != "" {
		pem, err := readBounded(c.CA, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no PEM certificate", c.CA)
		}
	}
	return &remote{config: c, client: &http.Client{Transport: transport, Timeout: fetchTimeout, CheckRedirect: checkRedirect}}, nil
}

func checkRedirect(request *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case request.URL.Scheme != "https" && via[0].URL.Scheme == "https":
		return errors.New("a redirect from https to http")
	case request.URL.Host != via[0].URL.Host:
		request.Header.Del("Authorization")
	}
	return nil
}

// fetch implements [source].
func (r *remote) fetch(ctx context.Context, version string) (*content, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.config.Bundle, nil)
	if err != nil {
		return nil, err
	}
	if version != "" && !strings.HasPrefix(version, hashed) {
		request.Header.Set("If-None-Match", version)
	}
	if r.config.TokenFile != "" {
		token, err := readBounded(r.config.TokenFile, maxKeyBytes)
		if err != nil {
			return nil, fmt.Errorf("token_file: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	response, err := r.client.Do(request)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer func() { _ = response.Body.Close() }()
	switch {
	case response.StatusCode == http.StatusNotModified && version != "":
		return nil, nil
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the bundle server answers %s", response.Status)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxBundleBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the bundle was cut off: %w", withoutURL(err))
	case len(data) > maxBundleBytes:
		return nil, fmt.Errorf("the bundle is larger than %d bytes", maxBundleBytes)
	}
	now := response.Header.Get("ETag")
	if now == "" { // tell by ourselves whether anything changed
		now = fmt.Sprintf("%s%x", hashed, sha256.Sum256(data))
	}
	if now == version {
		return nil, nil
	}
	return r.config.readBundle(bytes.NewReader(data), now)
}

// hashed begins the version of a bundle whose server sends no ETag.
const hashed = "sha256:"

// shown is the address without its query, which may hold a secret.
func shown(bundle string) string {
	if u, err := url.Parse(bundle); err == nil && isURL(bundle) {
		u.RawQuery = ""
		return u.Redacted()
	}
	return bundle
}

// withoutURL is the error without the URL, whose query may hold a secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
