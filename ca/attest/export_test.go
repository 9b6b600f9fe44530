package attest

import "crypto/x509"

// Bearer reads authorization values.
func Bearer(values ...string) (string, error) {
	token, err := bearer(values)
	if err != nil {
		return token, err
	}
	return token, nil
}

// URINames lists the URI names of a certificate.
func URINames(c *x509.Certificate) ([]string, error) { return uriNames(c) }
