package provider

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/writ-auth/writ/authz"
)

// Bounds of one answer besides its size.
const (
	maxChanges       = 256 // headers or parameters in one list
	maxMetadataDepth = 32
)

// decodeResponse reads a CheckResponse as Envoy does (authorization-policy §6). It is stricter where Envoy lets a request
// pass because a field is missing: an empty message, and status OK beside a denied_response, are no answers.
func decodeResponse(data []byte, a *authz.Answer) error {
	var r authv3.CheckResponse
	if err := proto.Unmarshal(data, &r); err != nil {
		return badAnswer("no CheckResponse: %v", err)
	}
	code := codes.Code(r.GetStatus().GetCode())
	if e := r.GetErrorResponse(); e != nil {
		return faultf(authz.ReasonProviderError, "the server says that it failed (error_response): status %v, HTTP status %d", code, e.GetStatus().GetCode())
	}
	if code != codes.OK {
		return decodeDenial(&r, code, a)
	}
	switch {
	case r.GetDeniedResponse() != nil:
		return badAnswer("status OK beside a denied_response")
	case r.GetStatus() == nil && r.GetOkResponse() == nil:
		return badAnswer("neither a status nor a response")
	}
	err := decodeAllowed(r.GetOkResponse(), a)
	if err == nil {
		a.Metadata, err = metadataOf(&r)
	}
	if err != nil {
		*a = authz.Answer{}
		return err
	}
	a.Allow = true
	return nil
}

// decodeAllowed reads what is to be done to an allowed request.
func decodeAllowed(ok *authv3.OkHttpResponse, a *authz.Answer) (err error) {
	if a.RequestHeaders, err = headerChanges(a.RequestHeaders[:0], ok.GetHeaders(), authz.HeaderOverwrite); err != nil {
		return err
	}
	if a.ResponseHeaders, err = headerChanges(a.ResponseHeaders[:0], ok.GetResponseHeadersToAdd(), authz.HeaderAppendOrAdd); err != nil {
		return err
	}
	if len(ok.GetHeadersToRemove())+len(ok.GetQueryParametersToSet())+len(ok.GetQueryParametersToRemove()) > maxChanges {
		return tooManyChanges()
	}
	for _, name := range ok.GetHeadersToRemove() {
		lower := strings.ToLower(name)
		if !validName(lower) {
			return badAnswer("headers_to_remove: %q is no header name", excerpt(name))
		}
		a.RemoveHeaders = append(a.RemoveHeaders, lower)
	}
	for _, p := range ok.GetQueryParametersToSet() {
		a.SetParams = append(a.SetParams, authz.Param{Name: p.GetKey(), Value: p.GetValue()})
	}
	a.RemoveParams = append(a.RemoveParams, ok.GetQueryParametersToRemove()...)
	return nil
}

// decodeDenial never fails: what of a denial cannot be passed on is left out, and it stays a denial.
func decodeDenial(r *authv3.CheckResponse, code codes.Code, a *authz.Answer) error {
	denied := r.GetDeniedResponse()
	a.Detail = "status " + code.String()
	if text := r.GetStatus().GetMessage(); text != "" {
		a.Detail += ": " + excerpt(text)
	}
	if status := int(denied.GetStatus().GetCode()); authz.IsProviderStatus(status) {
		a.Status = status
	} else if status != 0 {
		a.Detail += fmt.Sprintf("; left out: HTTP status %d, want 200 to 599", status)
	}
	if body := denied.GetBody(); len(body) <= authz.MaxProviderBody {
		a.Body = body
	} else {
		a.Detail += fmt.Sprintf("; left out: a body of more than %d bytes", authz.MaxProviderBody)
	}
	for i, o := range denied.GetHeaders() {
		h, err := headerChange(o, authz.HeaderOverwrite)
		if err == nil && i >= maxChanges {
			err = tooManyChanges()
		}
		if err != nil {
			a.Detail += "; left out: " + err.Error()
			break
		}
		h.Append = authz.HeaderOverwrite // there is nothing yet that it could be added to
		a.ResponseHeaders = append(a.ResponseHeaders, h)
	}
	metadata, err := metadataOf(r)
	if err != nil {
		a.Detail += "; left out: " + err.Error()
		return nil
	}
	a.Metadata = metadata
	return nil
}

func headerChanges(to []authz.HeaderChange, from []*corev3.HeaderValueOption, unset authz.HeaderAppend) ([]authz.HeaderChange, error) {
	if len(from) > maxChanges {
		return nil, tooManyChanges()
	}
	for _, o := range from {
		h, err := headerChange(o, unset)
		if err != nil {
			return nil, err
		}
		to = append(to, h)
	}
	return to, nil
}

// headerChange reads one header. unset is what it means that neither append nor append_action is set: the API says that
// append is false in this message (so request headers and denials overwrite), Envoy adds to responses.
func headerChange(o *corev3.HeaderValueOption, unset authz.HeaderAppend) (authz.HeaderChange, error) {
	h := authz.HeaderChange{Name: strings.ToLower(o.GetHeader().GetKey()), Value: o.GetHeader().GetValue(), Append: unset}
	if raw := o.GetHeader().GetRawValue(); h.Value == "" && len(raw) > 0 {
		h.Value = string(raw)
	}
	if err := checkHeader(h.Name, h.Value); err != nil {
		return h, err
	}
	if appends := o.GetAppend(); appends != nil { //nolint:staticcheck // deprecated, and what most servers set
		h.Append = authz.HeaderOverwrite
		if appends.GetValue() {
			h.Append = authz.HeaderAppendOrAdd
		}
		return h, nil
	}
	switch action := o.GetAppendAction(); action {
	case corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD: // also what an unset one looks like
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		h.Append = authz.HeaderAddIfAbsent
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
		h.Append = authz.HeaderOverwrite
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		h.Append = authz.HeaderOverwriteIfExists
	default:
		return h, badAnswer("header %q: append_action %d is not known", excerpt(h.Name), action)
	}
	return h, nil
}

// checkHeader refuses what no message can carry: a header of this name, or one whose value ends it early.
func checkHeader(name, value string) error {
	if !validName(name) {
		return badAnswer("%q is no header name", excerpt(name))
	}
	if !httpguts.ValidHeaderFieldValue(value) || !utf8.ValidString(value) {
		return badAnswer("the value of header %q holds a control character or is not UTF-8", excerpt(name))
	}
	return nil
}

// validName accepts names of headers and of pseudo headers; which of them a provider may touch is the engine's to say.
func validName(name string) bool {
	return httpguts.ValidHeaderFieldName(strings.TrimPrefix(name, ":"))
}

// metadataOf returns the dynamic metadata. The deprecated field wins, as in Envoy.
func metadataOf(r *authv3.CheckResponse) (map[string]any, error) {
	s := r.GetDynamicMetadata()
	if old := r.GetOkResponse().GetDynamicMetadata(); old != nil { //nolint:staticcheck // deprecated, and Envoy still reads it
		s = old
	}
	if s == nil {
		return nil, nil
	}
	if err := checkMetadata(structpb.NewStructValue(s), maxMetadataDepth); err != nil {
		return nil, err
	}
	return s.AsMap(), nil
}

// checkMetadata refuses what JSON cannot say, and nesting that is deeper than depth.
func checkMetadata(v *structpb.Value, depth int) error {
	if depth == 0 {
		return badAnswer("dynamic_metadata is nested more than %d deep", maxMetadataDepth)
	}
	switch kind := v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		if math.IsNaN(kind.NumberValue) || math.IsInf(kind.NumberValue, 0) {
			return badAnswer("dynamic_metadata holds the number %v", kind.NumberValue)
		}
	case *structpb.Value_StructValue:
		for _, field := range kind.StructValue.GetFields() {
			if err := checkMetadata(field, depth-1); err != nil {
				return err
			}
		}
	case *structpb.Value_ListValue:
		for _, item := range kind.ListValue.GetValues() {
			if err := checkMetadata(item, depth-1); err != nil {
				return err
			}
		}
	case nil:
		return badAnswer("dynamic_metadata holds a value of no kind")
	default: // null, text and booleans
	}
	return nil
}

func badAnswer(format string, args ...any) *authz.Fault {
	return faultf(authz.ReasonProviderBadAnswer, format, args...)
}

func tooManyChanges() *authz.Fault {
	return badAnswer("it changes more than %d headers or parameters", maxChanges)
}
