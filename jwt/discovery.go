package jwt

import (
	"encoding/json"
	"net/url"
	"strings"
)

// discoveryURL is where an issuer describes itself (OpenID Connect Discovery 1.0 §4.1): one trailing slash of the issuer
// goes, the well-known path comes.
func discoveryURL(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

// parseDiscovery reads the address of the key set from an issuer's discovery document. The document must name the very
// issuer it was asked for (OpenID Connect Discovery 1.0 §4.3), and an issuer reached over https must not point to keys
// over http. What the document says is in no error: it may come from a host that should not be readable through us.
func parseDiscovery(document []byte, issuer string) (string, error) {
	// Members are looked up by their exact names: a struct would also take "Issuer" for "issuer".
	var members map[string]json.RawMessage
	if err := json.Unmarshal(document, &members); err != nil {
		return "", badDiscovery("the answer is no JSON object")
	}
	var claimed, address string
	if json.Unmarshal(members["issuer"], &claimed) != nil || claimed != issuer {
		return "", badDiscovery("the document's issuer is not the issuer asked for, byte for byte")
	}
	if json.Unmarshal(members["jwks_uri"], &address) != nil || address == "" {
		return "", badDiscovery("the document has no jwks_uri")
	}
	if len(address) > maxSourceURLBytes {
		return "", badDiscovery("the document's jwks_uri is too long")
	}
	u, err := url.Parse(address)
	if err != nil || !u.IsAbs() || u.Host == "" {
		return "", badDiscovery("the document's jwks_uri is no absolute URL")
	}
	if hasScheme(issuer, "https") && u.Scheme != "https" {
		return "", badDiscovery("the document's jwks_uri is not https, as the issuer is")
	}
	return address, nil
}

func badDiscovery(detail string) error { return &fetchError{result: FetchBadDiscovery, detail: detail} }

func hasScheme(address, scheme string) bool {
	got, _, ok := strings.Cut(address, "://")
	return ok && strings.EqualFold(got, scheme)
}
