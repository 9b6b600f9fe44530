package authz

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// Bounds of what one provider may want. More is no answer: ReasonProviderBadAnswer.
const (
	MaxProviderBody = 1 << 20  // bytes of a denial's body
	maxChanges      = 256      // of one kind
	maxChangesBytes = 64 << 10 // of names and values together; Envoy's own bound of a request's headers is 60 KiB
	maxMetadataDeep = 32
	maxMetadataSize = 64 << 10 // about how many bytes of dynamic metadata
)

func (a *Answer) reset() {
	c := a.Changes
	c.reset()
	*a = Answer{Changes: c}
}

// reset empties the lists and keeps their memory.
func (c *Changes) reset() {
	clear(c.RequestHeaders)
	clear(c.RemoveHeaders)
	clear(c.ResponseHeaders)
	clear(c.SetParams)
	clear(c.RemoveParams)
	*c = Changes{
		RequestHeaders: c.RequestHeaders[:0], RemoveHeaders: c.RemoveHeaders[:0], ResponseHeaders: c.ResponseHeaders[:0],
		SetParams: c.SetParams[:0], RemoveParams: c.RemoveParams[:0],
	}
}

// check holds an answer against the bounds. A denial stays one whatever else is wrong with it, or a provider that fails
// open would let pass what it said no to: what it cannot have is left out.
func (a *Answer) check() *Fault {
	f := a.outOfBounds()
	if f == nil || a.Allow {
		return f
	}
	a.reset()
	a.Detail = "a denial without its particulars: " + f.Err.Error()
	return nil
}

// outOfBounds says what of an answer means nothing, or is too large.
func (a *Answer) outOfBounds() *Fault {
	bad := func(format string, args ...any) *Fault {
		return &Fault{ReasonProviderBadAnswer, fmt.Errorf(format, args...)}
	}
	if a.Status != 0 && !IsProviderStatus(a.Status) {
		return bad("HTTP status %d: want 200 to 599", a.Status)
	}
	if len(a.Body) > MaxProviderBody {
		return bad("a body of %d bytes, more than %d", len(a.Body), MaxProviderBody)
	}
	c := &a.Changes
	for _, n := range [...]int{len(c.RequestHeaders), len(c.RemoveHeaders), len(c.ResponseHeaders), len(c.SetParams), len(c.RemoveParams)} {
		if n > maxChanges {
			return bad("%d changes of one kind, more than %d", n, maxChanges)
		}
	}
	if n := c.size(); n > maxChangesBytes {
		return bad("%d bytes of headers and parameters, more than %d", n, maxChangesBytes)
	}
	if c.Metadata != nil {
		size := 0
		if err := checkMetadata(c.Metadata, 0, &size); err != nil {
			return &Fault{ReasonProviderBadAnswer, fmt.Errorf("dynamic metadata: %w", err)}
		}
	}
	return nil
}

// size is how many bytes the names and values take.
func (c *Changes) size() (n int) {
	for _, headers := range [...][]HeaderChange{c.RequestHeaders, c.ResponseHeaders} {
		for i := range headers {
			n += len(headers[i].Name) + len(headers[i].Value)
		}
	}
	for _, p := range c.SetParams {
		n += len(p.Name) + len(p.Value)
	}
	for _, names := range [...][]string{c.RemoveHeaders, c.RemoveParams} {
		for _, name := range names {
			n += len(name)
		}
	}
	return n
}

// checkMetadata makes sure that a value is JSON, neither deep nor large.
func checkMetadata(v any, depth int, size *int) error {
	if depth > maxMetadataDeep {
		return fmt.Errorf("nested deeper than %d", maxMetadataDeep)
	}
	*size += 8
	switch v := v.(type) {
	case nil, bool:
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%v is no JSON value", v)
		}
	case string:
		*size += len(v)
	case []any:
		for _, item := range v {
			if err := checkMetadata(item, depth+1, size); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, item := range v {
			*size += len(key)
			if err := checkMetadata(item, depth+1, size); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("a %T is no JSON value", v)
	}
	if *size > maxMetadataSize {
		return fmt.Errorf("more than %d bytes", maxMetadataSize)
	}
	return nil
}

// changing is a provider that changes a request.
type changing struct {
	g        *delegate
	workload *policy.Bound
	request  *policy.Request
}

// merge adds what a later provider wants to what earlier ones want, as if their filters ran one after the other: the
// later one sees, and may undo, what the earlier one did. Inside one answer, removals come last, as in Envoy. It returns
// how many changes it refused.
func (c *Changes) merge(by *changing, from *Changes) (refused int) {
	for i := range from.RequestHeaders {
		h := from.RequestHeaders[i]
		if h.Name = lower(h.Name); !by.mayChange(h.Name) || !httpguts.ValidHeaderFieldValue(h.Value) {
			refused++
			continue
		}
		c.setHeader(by.request, h)
	}
	for _, name := range from.RemoveHeaders {
		name = lower(name)
		if !by.mayChange(name) || name[0] == ':' || name == "host" { // Envoy removes neither
			refused++
			continue
		}
		c.removeHeader(name)
	}
	refused += c.mergeResponse(from.ResponseHeaders)
	c.mergeParams(from)
	for key, value := range from.Metadata {
		if c.Metadata == nil {
			c.Metadata = make(map[string]any, len(from.Metadata))
		}
		c.Metadata[key] = value
	}
	return refused
}

func named(name string) func(HeaderChange) bool {
	return func(h HeaderChange) bool { return h.Name == name }
}

// setHeader resolves the changes that depend on what is there already: how Envoy takes them differs by its version.
func (c *Changes) setHeader(r *policy.Request, h HeaderChange) {
	removed := slices.Index(c.RemoveHeaders, h.Name)
	set := slices.ContainsFunc(c.RequestHeaders, named(h.Name))
	_, sent := r.Header(h.Name)
	there := set || sent && removed < 0
	switch h.Append {
	case HeaderAddIfAbsent:
		if there {
			return
		}
		h.Append = HeaderOverwrite
	case HeaderOverwriteIfExists:
		if !there {
			return
		}
		h.Append = HeaderOverwrite
	case HeaderAppendOrAdd:
		if !there {
			h.Append = HeaderOverwrite
		}
	case HeaderOverwrite:
	}
	if removed >= 0 {
		c.RemoveHeaders = slices.Delete(c.RemoveHeaders, removed, removed+1)
	}
	if h.Append == HeaderOverwrite {
		c.RequestHeaders = slices.DeleteFunc(c.RequestHeaders, named(h.Name))
	}
	c.RequestHeaders = append(c.RequestHeaders, h)
}

func (c *Changes) removeHeader(name string) {
	c.RequestHeaders = slices.DeleteFunc(c.RequestHeaders, named(name))
	if !slices.Contains(c.RemoveHeaders, name) {
		c.RemoveHeaders = append(c.RemoveHeaders, name)
	}
}

// mergeResponse adds response headers. One that overwrites takes the place of what earlier providers set; inside one
// answer a name may come several times, as set-cookie does.
func (c *Changes) mergeResponse(headers []HeaderChange) (refused int) {
	earlier := len(c.ResponseHeaders)
	for i := range headers {
		h := headers[i]
		if h.Name = lower(h.Name); !httpguts.ValidHeaderFieldName(h.Name) || framing(h.Name) || !httpguts.ValidHeaderFieldValue(h.Value) {
			refused++
			continue
		}
		if h.Append == HeaderOverwrite {
			for j := earlier - 1; j >= 0; j-- {
				if c.ResponseHeaders[j].Name == h.Name {
					c.ResponseHeaders = slices.Delete(c.ResponseHeaders, j, j+1)
					earlier--
				}
			}
		}
		c.ResponseHeaders = append(c.ResponseHeaders, h)
	}
	return refused
}

func (c *Changes) mergeParams(from *Changes) {
	for _, p := range from.SetParams {
		c.RemoveParams = slices.DeleteFunc(c.RemoveParams, func(name string) bool { return name == p.Name })
		c.SetParams = slices.DeleteFunc(c.SetParams, func(earlier Param) bool { return earlier.Name == p.Name })
		c.SetParams = append(c.SetParams, p)
	}
	for _, name := range from.RemoveParams {
		c.SetParams = slices.DeleteFunc(c.SetParams, func(p Param) bool { return p.Name == name })
		if !slices.Contains(c.RemoveParams, name) {
			c.RemoveParams = append(c.RemoveParams, name)
		}
	}
}

// underTokens drops what the JWT layer, which comes later, does otherwise: the headers it sets and, with the token
// itself, those it removes. A claim header stays if the provider was allowed to set it and the token does not.
func (c *Changes) underTokens(t *jwt.Result, a *policy.Authentication) {
	if len(c.RequestHeaders) == 0 && len(c.RemoveHeaders) == 0 {
		return
	}
	c.RequestHeaders = slices.DeleteFunc(c.RequestHeaders, func(h HeaderChange) bool {
		for i := range t.SetHeaders {
			if t.SetHeaders[i].Name == h.Name {
				return true
			}
		}
		return slices.Contains(t.RemoveHeaders, h.Name) && !isClaimHeader(a, h.Name)
	})
	c.RemoveHeaders = slices.DeleteFunc(c.RemoveHeaders, func(name string) bool {
		for i := range t.SetHeaders {
			if t.SetHeaders[i].Name == name {
				return true
			}
		}
		return slices.Contains(t.RemoveHeaders, name)
	})
}

// mayChange reports whether the provider may set or remove a request header, given in lower case.
func (by *changing) mayChange(name string) bool {
	if Changeable(name) != nil {
		return false
	}
	if !guarded(name) && !isClaimHeader(by.workload.Authentication, name) {
		return true
	}
	return slices.Contains(by.g.AllowHeaders, name)
}

// Changeable says why no provider may change a request header, whatever the configuration allows; nil if one may. Some
// headers need to be allowed by [ProviderConfig]: those that say where the request comes from or goes to (:authority and
// other pseudo headers, host, forwarded, x-forwarded-…, x-envoy-…), and those that carry claims of a verified token.
func Changeable(name string) error {
	switch pseudo := strings.TrimPrefix(name, ":"); {
	case !httpguts.ValidHeaderFieldName(pseudo):
		return fmt.Errorf("%q is no header name", name)
	case framing(lower(name)):
		return errors.New(name + " belongs to the connection, not to the request")
	}
	return nil
}

// guarded reports whether upstream code may take the header for the proxy's own word.
func guarded(name string) bool {
	return name[0] == ':' || name == "host" || name == "forwarded" || name == "x-real-ip" ||
		strings.HasPrefix(name, "x-forwarded-") || strings.HasPrefix(name, "x-envoy-")
}

// framing reports whether the header delimits messages or belongs to one hop (RFC 9110 §7.6.1): a wrong one smuggles.
func framing(name string) bool {
	switch name {
	case "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade":
		return true
	}
	return false
}

// isClaimHeader reports whether a token rule of the workload passes claims on in this header.
func isClaimHeader(a *policy.Authentication, name string) bool {
	if a == nil {
		return false
	}
	for i := range a.Rules {
		spec := a.Rules[i].Spec
		if strings.EqualFold(spec.GetOutputPayloadToHeader(), name) {
			return true
		}
		for _, claim := range spec.GetOutputClaimToHeaders() {
			if strings.EqualFold(claim.GetHeader(), name) {
				return true
			}
		}
	}
	return false
}

func lower(name string) string { return strings.ToLower(name) }
