package main

import (
	"net/url"
	"strings"

	"github.com/writ-auth/writ/ca/caserver"
)

// jwtSVIDConfig switches JWT-SVIDs on.
type jwtSVIDConfig struct {
	Issuer string `yaml:"issuer"` // URL; empty: tokens have no iss, and nothing can be discovered
}

// bundleEndpointConfig switches the bundle endpoint on.
type bundleEndpointConfig struct {
	Listen string `yaml:"listen"`
	Cert   string `yaml:"cert" rel:"file"` // of a name the world trusts; empty: the server's own, with its SPIFFE ID
	Key    string `yaml:"key" rel:"file"`
}

// defaults fills the block before what the file says of it is read.
func (b *bundleEndpointConfig) defaults() { b.Listen = "0.0.0.0:8443" }

// checkFederation looks at what others verify our identities with.
func (d *configDecoder) checkFederation(c *caConfig) {
	if c.JWT != nil && c.JWT.Issuer != "" {
		u, err := url.Parse(c.JWT.Issuer)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
			strings.HasSuffix(c.JWT.Issuer, "/") {
			d.bad("ca.jwt.issuer", "%q: want an https URL without query, fragment and trailing slash, at which the bundle endpoint is found", c.JWT.Issuer)
		}
	}
	b := c.BundleEndpoint
	if b == nil {
		return
	}
	switch address, err := parseAddress(b.Listen); {
	case err != nil:
		d.bad("ca.bundle_endpoint.listen", "%v", err)
	case address.network != "tcp":
		d.bad("ca.bundle_endpoint.listen", "%q: it is for other machines: want host:port, such as 0.0.0.0:8443", b.Listen)
	}
	if (b.Cert == "") != (b.Key == "") {
		d.bad("ca.bundle_endpoint", "want both cert and key, or neither: then the server's own certificate is used")
	}
}

// issuer is the iss of JWT-SVIDs.
func (c *caConfig) issuer() string {
	if c.JWT == nil {
		return ""
	}
	return c.JWT.Issuer
}

// minter makes JWT-SVIDs, nil unless they are switched on.
func (c *caConfig) minter(m caserver.Minter) caserver.Minter {
	if c.JWT == nil {
		return nil
	}
	return m
}
