package opa

import (
	"context"
	"net/url"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/writ-auth/writ/authz"
)

// Members of the input besides those of the CheckRequest.
const (
	memberParsedPath    = "parsed_path"
	memberParsedQuery   = "parsed_query"
	memberParsedBody    = "parsed_body"
	memberTruncatedBody = "truncated_body"
	memberVersion       = "version"
	memberWrit          = "writ"
)

// builder makes the input of policies. It is immutable once made.
type builder struct {
	check   *shape
	version ast.Value
	keys    map[string]*ast.Term

	services *services // nil if none are known
}

func newBuilder(known *services) *builder {
	b := &builder{services: known, check: shapes{}.of((&authv3.CheckRequest{}).ProtoReflect().Descriptor()), keys: map[string]*ast.Term{}}
	for _, name := range []string{
		memberParsedPath, memberParsedQuery, memberParsedBody, memberTruncatedBody, memberVersion, memberWrit,
		"identity", "claims", "workload", "policy", "rule", "decision_id", "provider",
		"principal", "namespace", "service_account", "trust_domain", "name", "labels", "headers",
	} {
		b.keys[name] = ast.StringTerm(name)
	}
	b.version = ast.NewObject(
		[2]*ast.Term{ast.StringTerm("ext_authz"), ast.StringTerm("v3")},
		[2]*ast.Term{ast.StringTerm("encoding"), ast.StringTerm("protojson")},
	)
	return b
}

// pair is a member under one of our own names.
func (b *builder) pair(name string, v ast.Value) [2]*ast.Term {
	return [2]*ast.Term{b.keys[name], ast.NewTerm(v)}
}

// input makes what policies see of a question, as far as they may look at it. An error says that the request is not what
// it claims to be: its path is no path, or its body is not of its content type.
func (b *builder) input(ctx context.Context, q *authz.Question, want *demand) (ast.Value, error) {
	// One copy, which everything taken out of the request shares: terms may outlive it in caches of the evaluator.
	raw := string(q.Raw)
	checked, err := b.check.object(raw, want, 0)
	if err != nil {
		return nil, err
	}
	in, ok := checked.(ast.Object)
	if !ok {
		in = ast.NewObject()
	}
	h, err := b.http(raw)
	if err != nil {
		return nil, err
	}
	if headers := want.of("attributes").of("request").of("http").of("headers"); headers != nil && h.fromMap {
		h.completeHeaders(b, in, headers)
	}
	if want.of(memberVersion) != nil {
		in.Insert(b.keys[memberVersion], ast.NewTerm(b.version))
	}
	if err := b.insertParsed(in, h, want); err != nil {
		return nil, err
	}
	if w := want.of(memberWrit); w != nil {
		in.Insert(b.keys[memberWrit], ast.NewTerm(b.writ(ctx, q, w)))
	}
	return in, nil
}

// httpPart is what the members that are parsed are made from.
type httpPart struct {
	path, body, rawBody string
	headers             [][2]string // as sent in headers, or folded from header_map
	fromMap             bool        // header_map it was
}

// Numbers of the fields on the way to an HTTP request (envoy.service.auth.v3).
const (
	fieldAttributes = 1 // CheckRequest.attributes
	fieldRequest    = 4 // AttributeContext.request
	fieldHTTP       = 2 // Request.http

	fieldHeaders   = 3 // HttpRequest.headers
	fieldPath      = 4 // .path
	fieldBody      = 11
	fieldRawBody   = 12
	fieldHeaderMap = 13
)

// http finds the HTTP request in a CheckRequest.
func (b *builder) http(raw string) (*httpPart, error) {
	h := &httpPart{}
	err := each(raw, func(w *wireField) error {
		if w.number != fieldAttributes {
			return nil
		}
		return each(w.text, func(w *wireField) error {
			if w.number != fieldRequest {
				return nil
			}
			return each(w.text, func(w *wireField) error {
				if w.number != fieldHTTP {
					return nil
				}
				return each(w.text, h.field)
			})
		})
	})
	return h, err
}

func (h *httpPart) field(w *wireField) error {
	switch w.number {
	case fieldPath:
		h.path = w.text
	case fieldBody:
		h.body = w.text
	case fieldRawBody:
		h.rawBody = w.text
	case fieldHeaders:
		key, value, _, err := mapEntry(w.text)
		if err != nil {
			return err
		}
		h.headers = append(h.headers, [2]string{key, value})
	case fieldHeaderMap:
		h.fromMap = true
		return each(w.text, h.rawHeader)
	}
	return nil
}

// rawHeader adds a HeaderValue of header_map. A name that comes again is joined with a comma, as Envoy does in headers.
func (h *httpPart) rawHeader(w *wireField) error {
	if w.number != 1 {
		return nil
	}
	var key, value, raw string
	err := each(w.text, func(w *wireField) error {
		switch w.number {
		case 1:
			key = w.text
		case 2:
			value = w.text
		case 3:
			raw = w.text
		}
		return nil
	})
	if raw != "" {
		value = raw
	}
	for i := range h.headers {
		if h.headers[i][0] == key {
			h.headers[i][1] += "," + value
			return err
		}
	}
	h.headers = append(h.headers, [2]string{key, value})
	return err
}

// each calls visit for every field of a message.
func each(s string, visit func(*wireField) error) (err error) {
	var w wireField
	for s != "" {
		if s, err = nextField(s, &w); err != nil {
			return err
		}
		if err = visit(&w); err != nil {
			return err
		}
	}
	return nil
}

// header returns the last value of a header.
func (h *httpPart) header(name string) (value string, ok bool) {
	for i := len(h.headers) - 1; i >= 0; i-- {
		if h.headers[i][0] == name {
			return h.headers[i][1], true
		}
	}
	return "", false
}

// completeHeaders puts headers where policies look for them when the proxy sends them in header_map only
// (encode_raw_headers).
func (h *httpPart) completeHeaders(b *builder, in ast.Object, want *demand) {
	at := in
	for _, name := range []string{"attributes", "request", "http"} {
		term := at.Get(ast.StringTerm(name))
		if term == nil {
			return
		}
		next, ok := term.Value.(ast.Object)
		if !ok {
			return
		}
		at = next
	}
	pairs := make([][2]*ast.Term, 0, len(h.headers))
	for _, header := range h.headers {
		if want.of(header[0]) != nil {
			pairs = append(pairs, [2]*ast.Term{ast.StringTerm(valid(header[0])), ast.StringTerm(valid(header[1]))})
		}
	}
	at.Insert(b.keys["headers"], ast.NewTerm(objectOf(pairs)))
}

// insertParsed adds the members that are made from the path and the body.
func (b *builder) insertParsed(in ast.Object, h *httpPart, want *demand) error {
	if want.of(memberParsedPath) != nil || want.of(memberParsedQuery) != nil {
		u, err := url.Parse(h.path)
		if err != nil {
			return badRequest("path: %v", err)
		}
		var segments []*ast.Term
		for segment := range strings.SplitSeq(strings.TrimLeft(u.Path, "/"), "/") {
			segments = append(segments, ast.StringTerm(valid(segment)))
		}
		in.Insert(b.keys[memberParsedPath], ast.NewTerm(ast.NewArray(segments...)))
		if want.of(memberParsedQuery) != nil {
			in.Insert(b.keys[memberParsedQuery], ast.NewTerm(listsOf(u.Query())))
		}
	}
	if want.of(memberParsedBody) != nil || want.of(memberTruncatedBody) != nil {
		body, truncated, err := h.parsedBody(b.services)
		if err != nil {
			return badRequest("body: %v", err)
		}
		in.Insert(b.keys[memberParsedBody], ast.NewTerm(body))
		in.Insert(b.keys[memberTruncatedBody], ast.NewTerm(ast.Boolean(truncated)))
	}
	return nil
}

// listsOf is an object of lists of text.
func listsOf(values map[string][]string) ast.Object {
	o := ast.NewObjectWithCapacity(len(values))
	for name, list := range values {
		terms := make([]*ast.Term, len(list))
		for i, v := range list {
			terms[i] = ast.StringTerm(valid(v))
		}
		o.Insert(ast.StringTerm(valid(name)), ast.NewTerm(ast.NewArray(terms...)))
	}
	return o
}
