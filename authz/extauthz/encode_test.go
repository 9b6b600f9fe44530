package extauthz_test

import (
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

func rule(namespace, name string, index int) *policy.Rule {
	return &policy.Rule{Policy: &policy.Policy{Namespace: namespace, Name: name}, Index: index}
}

func denied(code codes.Code, http int32, body string) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(code)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode(http)}, Body: body,
		}},
	}
}

func allowed() *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:       &status.Status{},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}
}

func TestResponse(t *testing.T) {
	long := strings.Repeat("n", 20_000)
	tests := []struct {
		name     string
		decision authz.Decision
		want     *authv3.CheckResponse
		metadata map[string]any
	}{{
		"allow without rule",
		authz.Decision{Allow: true, Status: 200, Layer: authz.LayerDefault, Reason: authz.ReasonNoAllowPolicy, Generation: 7, Evaluated: true},
		allowed(),
		map[string]any{"decision": "allow", "layer": "default", "reason": "no_allow_policy", "generation": 7},
	}, {
		"allow by a rule, audited",
		authz.Decision{Allow: true, Status: 200, Layer: authz.LayerAllow, Reason: authz.ReasonAllowed, Rule: rule("shop", "customers", 3),
			Evaluated: true, Verdict: policy.Verdict{Audit: rule("shop", "audit", 0)}},
		allowed(),
		map[string]any{"decision": "allow", "layer": "allow", "reason": "allowed", "policy": "shop/customers", "rule": 3, "rule_id": "", "audit": "", "generation": 0},
	}, {
		"deny by a rule",
		authz.Decision{Status: 403, Body: authz.DeniedBody, Layer: authz.LayerDeny, Reason: authz.ReasonDenied, Rule: rule("shop", "no-admin", 300), Generation: 1 << 40},
		denied(codes.PermissionDenied, 403, authz.DeniedBody),
		map[string]any{"decision": "deny", "layer": "deny", "reason": "denied", "policy": "shop/no-admin", "rule": 300, "rule_id": "", "generation": 1 << 40},
	}, {
		"401 is unauthenticated",
		authz.Decision{Status: 401, Body: "Jwt is expired", Layer: authz.LayerJWT, Reason: "invalid_token"},
		denied(codes.Unauthenticated, 401, "Jwt is expired"),
		map[string]any{"decision": "deny", "layer": "jwt", "reason": "invalid_token", "generation": 0},
	}, {
		"no status at all is 403",
		authz.Decision{Reason: authz.ReasonDenied},
		denied(codes.PermissionDenied, 403, ""),
		map[string]any{"decision": "deny", "layer": "", "reason": "denied", "generation": 0},
	}, {
		"a denial is never 200",
		authz.Decision{Status: 200, Reason: authz.ReasonDenied},
		denied(codes.PermissionDenied, 403, ""),
		map[string]any{"decision": "deny", "layer": "", "reason": "denied", "generation": 0},
	}, {
		"shadow results, hit",
		authz.Decision{Allow: true, Status: 200, Evaluated: true, Verdict: policy.Verdict{HasShadowAllow: true, HasShadowDeny: true,
			ShadowAllow: rule("a", "b", 0), ShadowDeny: rule("a", "c", 0)}},
		allowed(),
		map[string]any{"decision": "allow", "layer": "", "reason": "", "generation": 0,
			"istio_dry_run_allow_shadow_engine_result": "allowed", "istio_dry_run_allow_shadow_effective_policy_id": "",
			"istio_dry_run_deny_shadow_engine_result": "denied", "istio_dry_run_deny_shadow_effective_policy_id": ""},
	}, {
		"shadow results, no hit",
		authz.Decision{Allow: true, Status: 200, Evaluated: true, Verdict: policy.Verdict{HasShadowAllow: true, HasShadowDeny: true}},
		allowed(),
		map[string]any{"decision": "allow", "layer": "", "reason": "", "generation": 0,
			"istio_dry_run_allow_shadow_engine_result": "denied", "istio_dry_run_deny_shadow_engine_result": "allowed"},
	}, {
		"a verdict that was not reached is not reported",
		authz.Decision{Verdict: policy.Verdict{HasShadowAllow: true, Audit: rule("a", "b", 1)}},
		denied(codes.PermissionDenied, 403, ""),
		map[string]any{"decision": "deny", "layer": "", "reason": "", "generation": 0},
	}, {
		"texts of every length prefix",
		authz.Decision{Status: 403, Body: long, Reason: authz.Reason(strings.Repeat("r", 126)), Layer: authz.Layer(strings.Repeat("l", 130)), Rule: rule(long, "x", 0)},
		denied(codes.PermissionDenied, 403, long),
		map[string]any{"decision": "deny", "layer": strings.Repeat("l", 130), "reason": strings.Repeat("r", 126), "policy": long + "/x", "rule": 0, "rule_id": "", "generation": 0},
	}}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			c.decision.Detail = "SECRET DETAIL"
			raw := extauthz.AppendResponse(nil, &c.decision)
			if strings.Contains(string(raw), "SECRET") {
				t.Error("the detail is in the response")
			}
			var got authv3.CheckResponse
			if err := proto.Unmarshal(raw, &got); err != nil {
				t.Fatal(err)
			}
			metadata, err := structpb.NewStruct(c.metadata)
			if err != nil {
				t.Fatal(err)
			}
			c.want.DynamicMetadata = metadata
			if !proto.Equal(&got, c.want) {
				t.Errorf("got %s\nwant %s", prototext.Format(&got), prototext.Format(c.want))
			}
		})
	}
}

// Envoy takes a response without a status, and one with status OK next to a denied_response, for an allow.
func TestResponseAlwaysHasStatus(t *testing.T) {
	for _, d := range []authz.Decision{
		{}, {Allow: true}, {Status: 403}, {Status: -1}, {Status: 1 << 30}, {Allow: true, Status: 403}, {Status: 200, Body: "x"},
	} {
		var got authv3.CheckResponse
		if err := proto.Unmarshal(extauthz.AppendResponse(nil, &d), &got); err != nil {
			t.Fatal(err)
		}
		if got.Status == nil {
			t.Errorf("%+v: no status", d)
		}
		_, isDenied := got.HttpResponse.(*authv3.CheckResponse_DeniedResponse)
		if ok := got.Status.GetCode() == 0; ok != d.Allow || ok == isDenied {
			t.Errorf("%+v: status %d with %T", d, got.Status.GetCode(), got.HttpResponse)
		}
		if isDenied && got.GetDeniedResponse().GetStatus().GetCode() < 400 {
			t.Errorf("%+v: denied with HTTP status %d", d, got.GetDeniedResponse().GetStatus().GetCode())
		}
	}
}

func TestOnlyCoherentDecisionsAreAnswers(t *testing.T) {
	whole := authz.Decision{Allow: true, Status: 200, Layer: authz.LayerAllow, Reason: authz.ReasonAllowed}
	if !extauthz.Coherent(&whole) {
		t.Errorf("%+v is not taken for an answer", whole)
	}
	for _, d := range []authz.Decision{
		{}, {Allow: true}, {Allow: true, Status: 200}, {Allow: true, Status: 403, Layer: authz.LayerAllow, Reason: authz.ReasonAllowed},
		{Allow: true, Status: 200, Reason: authz.ReasonAllowed}, {Allow: true, Status: 200, Layer: authz.LayerAllow},
	} {
		if extauthz.Coherent(&d) {
			t.Errorf("%+v is taken for an answer", d)
		}
	}
}
