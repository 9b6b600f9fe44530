package extauthz_test

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

func response(t *testing.T, d *authz.Decision) *authv3.CheckResponse {
	t.Helper()
	r := new(authv3.CheckResponse)
	if err := proto.Unmarshal(extauthz.AppendResponse(nil, d), r); err != nil {
		t.Fatal(err)
	}
	return r
}

func option(name, value string, change ...func(*corev3.HeaderValueOption)) *corev3.HeaderValueOption {
	o := &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}}
	for _, c := range change {
		c(o)
	}
	return o
}

// TestEncodeChanges: what providers want is said in the fields that Envoy reads it from, with those of the token after it.
func TestEncodeChanges(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("v", 20_000)
	d := &authz.Decision{
		Allow: true, Status: 200, Layer: authz.LayerAllow, Reason: authz.ReasonAllowed,
		Changes: authz.Changes{
			RequestHeaders:  []authz.HeaderChange{{Name: "a", Value: "1"}, {Name: "a", Value: "2", Append: authz.HeaderAppendOrAdd}, {Name: "x-claim", Value: "allowed"}, {Name: "long", Value: long}},
			RemoveHeaders:   []string{"gone"},
			ResponseHeaders: []authz.HeaderChange{{Name: "r0", Value: "0"}, {Name: "r1", Value: "1", Append: authz.HeaderAppendOrAdd}, {Name: "r2", Value: "2", Append: authz.HeaderAddIfAbsent}, {Name: "r3", Value: "3", Append: authz.HeaderOverwriteIfExists}},
			SetParams:       []authz.Param{{Name: "p", Value: "1"}, {Name: "", Value: ""}},
			RemoveParams:    []string{"q"},
			Metadata: map[string]any{
				"s": "x", "n": 1.5, "t": true, "f": false, "z": nil, "l": []any{"a", 2.0, []any{}, map[string]any{}}, "o": map[string]any{"deep": map[string]any{"er": long}},
				"decision": "forged", "reason": "forged", "provider": "forged",
			},
		},
		Token: jwt.Result{
			SetHeaders: []jwt.Header{{Name: "x-sub", Value: "alice"}}, RemoveHeaders: []string{"authorization", "x-claim"}, RemoveParams: []string{"access_token"},
		},
	}
	got := response(t, d)
	appends := func(o *corev3.HeaderValueOption) { o.Append = wrapperspb.Bool(true) } //nolint:staticcheck // the one field that every version of Envoy reads
	action := func(a corev3.HeaderValueOption_HeaderAppendAction) func(*corev3.HeaderValueOption) {
		return func(o *corev3.HeaderValueOption) { o.AppendAction = a }
	}
	want := &authv3.OkHttpResponse{
		Headers:         []*corev3.HeaderValueOption{option("a", "1"), option("a", "2", appends), option("x-claim", "allowed"), option("long", long), option("x-sub", "alice")},
		HeadersToRemove: []string{"gone", "authorization"},
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{
			option("r0", "0", action(corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)), option("r1", "1"),
			option("r2", "2", action(corev3.HeaderValueOption_ADD_IF_ABSENT)), option("r3", "3", action(corev3.HeaderValueOption_OVERWRITE_IF_EXISTS)),
		},
		QueryParametersToSet:    []*corev3.QueryParameter{{Key: "p", Value: "1"}, {}},
		QueryParametersToRemove: []string{"q", "access_token"},
	}
	if diff := cmp.Diff(want, got.GetOkResponse(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	metadata, err := structpb.NewStruct(map[string]any{
		"s": "x", "n": 1.5, "t": true, "f": false, "z": nil, "l": []any{"a", 2.0, []any{}, map[string]any{}}, "o": map[string]any{"deep": map[string]any{"er": long}},
		"decision": "allow", "layer": "allow", "reason": "allowed", "generation": 0,
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(metadata, got.GetDynamicMetadata(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// TestEncodeProviderDenial: a provider's denial goes to the client as it is.
func TestEncodeProviderDenial(t *testing.T) {
	t.Parallel()
	rule := &policy.Rule{Policy: &policy.Policy{Namespace: "foo", Name: "p", Provider: "opa", Action: policy.ActionCustom}}
	d := &authz.Decision{Status: 302, Body: "go there", Layer: authz.LayerCustom, Reason: authz.ReasonProviderDenied, Rule: rule, Changes: authz.Changes{
		ResponseHeaders: []authz.HeaderChange{{Name: "location", Value: "https://login.example"}, {Name: "set-cookie", Value: "a"}, {Name: "set-cookie", Value: "b", Append: authz.HeaderAppendOrAdd}},
	}}
	got := response(t, d)
	text := protojson.MarshalOptions{}.Format(got.GetDeniedResponse())
	want := &authv3.DeniedHttpResponse{}
	if err := protojson.Unmarshal([]byte(`{"status":{"code":302},"body":"go there","headers":[{"header":{"key":"location","value":"https://login.example"}},
		{"header":{"key":"set-cookie","value":"a"}},{"header":{"key":"set-cookie","value":"b"},"append":true}]}`), want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(want, got.GetDeniedResponse()) || got.GetStatus().GetCode() == 0 {
		t.Errorf("code %d, %s", got.GetStatus().GetCode(), text)
	}
	if p := got.GetDynamicMetadata().GetFields()["provider"].GetStringValue(); p != "opa" {
		t.Errorf("provider %q", p)
	}
	for status, want := range map[int]int{200: 200, 204: 204, 599: 599, 100: 403, 0: 403, 600: 403} {
		d.Status = status
		if got := int(response(t, d).GetDeniedResponse().GetStatus().GetCode()); got != want {
			t.Errorf("status %d is sent as %d, want %d", status, got, want)
		}
	}
	d.Layer, d.Status = authz.LayerDeny, 200 // no other layer says so
	if got := int(response(t, d).GetDeniedResponse().GetStatus().GetCode()); got != 403 {
		t.Errorf("sent as %d", got)
	}
}
