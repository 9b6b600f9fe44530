package provider

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/writ-auth/writ/authz"
)

const (
	partialBodyHeader     = "x-envoy-auth-partial-body"      // set by Envoy when it sends a body, and by us
	headersToRemoveHeader = "x-envoy-auth-headers-to-remove" // of an answer that allows
)

var errBodyTooLarge = errors.New("the request's body is too large for the provider: raise include_request_body_in_check.max_request_bytes, " +
	"and max_request_bytes of Envoy's ext_authz filter with it, or set allow_partial_message in both")

// newCheck makes the request that Envoy's HTTP client would send. All of it is copied from the question: net/http may
// still be writing when a call that was given up has returned.
func (p *HTTP) newCheck(q *authz.Question) (*http.Request, error) {
	r := q.Request
	method := strings.Clone(r.Method)
	switch {
	case r.TCP:
		return nil, faultf(authz.ReasonProviderHTTPOnly, "an HTTP provider cannot be asked about a TCP connection")
	case method == http.MethodConnect || !httpguts.ValidHeaderFieldName(method): // a method is a token, as names are
		return nil, faultf(authz.ReasonProviderBadRequest, "a request with method %q cannot be put to an HTTP provider", method)
	}
	target, err := p.url(r.RawPath)
	if err != nil {
		return nil, err
	}
	headers, err := p.headers(q)
	if err != nil {
		return nil, err
	}
	check := &http.Request{Method: method, URL: target, Header: headers, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	switch {
	case p.authority != "":
		check.Host = p.authority
	case r.HasHost && httpguts.ValidHostHeader(r.Host):
		check.Host = strings.Clone(r.Host)
	case r.HasHost:
		return nil, faultf(authz.ReasonProviderBadRequest, "host %q cannot be put to an HTTP provider", r.Host)
	}
	return check, p.addBody(check, q)
}

// url is the target with the path byte by byte as Envoy has it, behind the prefix. The policies see the same bytes, so
// a path that could only be sent in another spelling is not sent.
func (p *HTTP) url(rawPath string) (*url.URL, error) {
	path := p.pathPrefix + rawPath // a copy, unless there is no prefix
	u := &url.URL{Scheme: p.target.Scheme, Host: p.target.Host}
	if path == "" || (path[0] != '/' && path != "*") || !validPath(path) {
		return nil, faultf(authz.ReasonProviderBadRequest, "path %q cannot be put to an HTTP provider", excerpt(path))
	}
	if !strings.HasPrefix(path, "//") { // net/http would take the rest for a host
		u.Opaque = strings.Clone(path)
		return u, nil
	}
	before, query, hasQuery := strings.Cut(path, "?")
	decoded, err := url.PathUnescape(before)
	u.Path, u.RawPath, u.RawQuery, u.ForceQuery = decoded, strings.Clone(before), strings.Clone(query), hasQuery
	if err != nil || u.RequestURI() != path {
		return nil, faultf(authz.ReasonProviderBadRequest, "path %q cannot be put to an HTTP provider: have Envoy merge slashes", excerpt(path))
	}
	return u, nil
}

// headers are those of the request that are listed, and what comes with every check.
func (p *HTTP) headers(q *authz.Question) (http.Header, error) {
	h := make(http.Header, len(p.additional)+8)
	for _, header := range q.Request.Headers {
		name := header.Name
		switch {
		case name == "" || name[0] == ':' || name == "host" || isConnectionHeader(name):
		case name == partialBodyHeader: // belongs to the body
		case name == "accept-encoding" || name == "expect":
			// A denial's body goes on to the client as text, and a check is sent whole.
		case name == "authorization" || p.send.has(name):
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(header.Value) {
				return nil, faultf(authz.ReasonProviderBadRequest, "header %q cannot be put to an HTTP provider: its name or its value is not valid", excerpt(name))
			}
			h.Add(strings.Clone(name), strings.Clone(header.Value))
		}
	}
	for name, values := range p.additional {
		h[name] = slices.Clone(values)
	}
	if h["User-Agent"] == nil {
		h["User-Agent"] = []string{""} // none, instead of net/http's own
	}
	h["Idempotency-Key"] = append([]string{}, h["Idempotency-Key"]...) // empty is not sent, and says that asking again does no harm
	return h, nil
}

// addBody adds what Envoy sent of the body, as far as the provider is to see it.
func (p *HTTP) addBody(check *http.Request, q *authz.Question) error {
	if p.body == nil {
		return nil
	}
	body, err := bodyOf(q.Raw)
	if err != nil {
		return faultf(authz.ReasonProviderBadRequest, "the CheckRequest: %w", err)
	}
	if len(body) == 0 {
		return nil
	}
	cut, _ := q.Request.Header(partialBodyHeader)
	partial := cut == "true"
	if len(body) > p.body.MaxRequestBytes {
		partial, body = true, body[:p.body.MaxRequestBytes]
	}
	if partial && !p.body.AllowPartialMessage {
		return errBodyTooLarge
	}
	check.Header.Set(partialBodyHeader, fmt.Sprint(partial))
	check.ContentLength = int64(len(body))
	check.Body, check.GetBody = newBody(bytes.Clone(body))
	return nil
}

// decodeAllowed reads the headers of an answer that allows.
func (p *HTTP) decodeAllowed(headers http.Header, a *authz.Answer) error {
	for name, value := range sortedHeaders(headers) {
		if name == headersToRemoveHeader {
			for remove := range strings.SplitSeq(value, ",") {
				remove = strings.ToLower(strings.TrimSpace(remove))
				if remove == "" {
					continue
				}
				if !validName(remove) {
					return badAnswer("%s: %q is no header name", headersToRemoveHeader, excerpt(remove))
				}
				a.RemoveHeaders = append(a.RemoveHeaders, remove)
			}
			continue
		}
		upstream, client := p.toUpstream.has(name), p.toClientOnAllow.has(name)
		if !upstream && !client {
			continue
		}
		if err := checkHeader(name, value); err != nil {
			return err
		}
		if upstream { // "copied (overriding) to the upstream request on 200"
			a.RequestHeaders = append(a.RequestHeaders, authz.HeaderChange{Name: name, Value: value, Append: authz.HeaderOverwrite})
		}
		if client { // "added to the final response on 200"
			a.ResponseHeaders = append(a.ResponseHeaders, authz.HeaderChange{Name: name, Value: value, Append: authz.HeaderAppendOrAdd})
		}
		if len(a.RequestHeaders) > maxChanges || len(a.ResponseHeaders) > maxChanges || len(a.RemoveHeaders) > maxChanges {
			return tooManyChanges()
		}
	}
	a.Allow = true
	return nil
}

// decodeDenial reads an answer that denies. What of it cannot be passed on is left out, and it stays a denial.
func (p *HTTP) decodeDenial(response *http.Response, body []byte, incomplete error, a *authz.Answer) {
	a.Status = response.StatusCode
	a.Detail = "HTTP status " + fmt.Sprint(response.StatusCode)
	switch {
	case incomplete != nil:
		a.Detail += "; without its body: " + incomplete.Error()
		if f, ok := errors.AsType[*authz.Fault](incomplete); ok {
			a.Reason = f.Reason
		}
	case !utf8.Valid(body): // Envoy takes bodies as text only
		a.Detail += "; without its body, which is not UTF-8"
	case len(body) > authz.MaxProviderBody:
		a.Detail += fmt.Sprintf("; without its body, which has more than %d bytes", authz.MaxProviderBody)
	default:
		a.Body = string(body)
	}
	for name, value := range sortedHeaders(response.Header) {
		if name == headersToRemoveHeader || (p.toClientOnDeny != nil && !p.toClientOnDeny.has(name)) {
			continue
		}
		err := checkHeader(name, value)
		if err == nil && len(a.ResponseHeaders) == maxChanges {
			err = tooManyChanges()
		}
		if err != nil {
			a.Detail += "; left out: " + err.Error()
			break
		}
		a.ResponseHeaders = append(a.ResponseHeaders, authz.HeaderChange{Name: name, Value: value, Append: authz.HeaderOverwrite})
	}
}

// sortedHeaders yields headers of an answer that may be passed on, by names in lower case and in their order.
func sortedHeaders(h http.Header) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		names := make([]string, 0, len(h))
		for name := range h {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			lower := strings.ToLower(name)
			if isConnectionHeader(lower) || lower == "host" {
				continue
			}
			for _, value := range h[name] {
				if !yield(lower, value) {
					return
				}
			}
		}
	}
}
