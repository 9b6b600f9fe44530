package opa

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/writ-auth/writ/authz"
)

// Bounds of bodies that are parsed. The body as a whole is bounded with the request.
const (
	maxBodyDepth = 256  // of JSON
	maxParts     = 1000 // of multipart/form-data
)

// badRequest is a request that cannot be put to policies.
func badRequest(format string, args ...any) error {
	return &authz.Fault{Reason: authz.ReasonProviderBadRequest, Err: fmt.Errorf(format, args...)}
}

// parsedBody is the body by its content type: JSON, a form, a gRPC message that is known, or null for everything else. A body
// of which the proxy sends only the beginning is null and truncated.
func (h *httpPart) parsedBody(known *services) (body ast.Value, truncated bool, err error) {
	kind, ok := h.header("content-type")
	if !ok {
		return ast.NullValue, false, nil
	}
	text := h.body
	if text == "" {
		text = h.rawBody
	}
	parse := parserOf(kind)
	if parse == nil && strings.Contains(kind, "application/grpc") {
		return known.parse(h)
	}
	if parse == nil || text == "" {
		return ast.NullValue, false, nil
	}
	if length, ok := h.header("content-length"); ok {
		n, err := strconv.ParseInt(length, 10, 64)
		if err != nil {
			return nil, false, fmt.Errorf("content-length %q is no number", length)
		}
		if n > int64(len(text)) {
			return ast.NullValue, true, nil
		}
	}
	body, err = parse(text, kind)
	return body, false, err
}

// parserOf returns what reads bodies of a content type, nil if nothing does.
func parserOf(kind string) func(text, kind string) (ast.Value, error) {
	switch {
	case strings.Contains(kind, "application/json"):
		return func(text, _ string) (ast.Value, error) { return parseJSON(text) }
	case strings.Contains(kind, "application/x-www-form-urlencoded"):
		return parseForm
	case strings.Contains(kind, "multipart/form-data"):
		return parseMultipart
	}
	return nil
}

func parseForm(text, _ string) (ast.Value, error) {
	values, err := url.ParseQuery(text)
	if err != nil {
		return nil, err
	}
	return listsOf(values), nil
}

// parseMultipart reads the named parts of a form: JSON ones as values, others as text.
func parseMultipart(text, kind string) (ast.Value, error) {
	_, params, err := mime.ParseMediaType(kind)
	if err != nil {
		return nil, err
	}
	boundary, ok := params["boundary"]
	if !ok {
		return ast.NullValue, nil
	}
	values := map[string][]*ast.Term{}
	reader := multipart.NewReader(strings.NewReader(text), boundary)
	for n := 0; ; n++ {
		part, err := reader.NextPart()
		if err == io.EOF { //nolint:errorlint // the end; an EOF that is wrapped is a body that was cut off
			break
		}
		switch {
		case err != nil:
			return nil, err
		case n == maxParts:
			return nil, fmt.Errorf("more than %d parts", maxParts)
		case part.FormName() == "":
			continue
		}
		content, err := io.ReadAll(part)
		if err != nil {
			return nil, err
		}
		var v ast.Value = ast.String(valid(string(content)))
		if strings.Contains(part.Header.Get("Content-Type"), "application/json") {
			if v, err = parseJSON(string(content)); err != nil {
				return nil, err
			}
		}
		values[part.FormName()] = append(values[part.FormName()], ast.NewTerm(v))
	}
	form := ast.NewObjectWithCapacity(len(values))
	for name, list := range values {
		form.Insert(ast.StringTerm(valid(name)), ast.NewTerm(ast.NewArray(list...)))
	}
	return form, nil
}

// parseJSON reads one JSON value and nothing after it. Its nesting is bounded before it is read.
func parseJSON(text string) (ast.Value, error) {
	if err := boundedDepth(text); err != nil {
		return nil, err
	}
	var v any
	if err := util.UnmarshalJSON([]byte(text), &v); err != nil {
		return nil, errors.New("no valid JSON")
	}
	return ast.InterfaceToValue(v)
}

func boundedDepth(text string) error {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxBodyDepth {
				return fmt.Errorf("JSON nested deeper than %d", maxBodyDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}
