package jwt_test

import (
	"testing"

	"github.com/writ-auth/writ/jwt"
)

func TestInspect(t *testing.T) {
	key := keyFor("ES256")
	got := jwt.Inspect(key.signRaw("ES256", `{"alg":"ES256","kid":"a b","jwk":{},"crit":[]}`, claimSet(`"aud":"api","nbf":5`)))
	if got.Reason != jwt.Valid || got.Algorithm != "ES256" || got.KeyID != "a?b" || got.Issuer != issuerA || !got.Critical ||
		!got.EmbeddedKey || !got.Canonical || got.Audiences[0] != "api" || got.NotBefore.Unix() != 5 || !got.IssuedAt.IsZero() ||
		got.Expires.Unix() != 1800003600 || got.Payload != claimSet(`"aud":"api","nbf":5`) {
		t.Errorf("%+v", got)
	}
	none := jwt.Inspect(b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(`{"sub":"x"}`)) + ".AA")
	if none.Reason != jwt.AlgorithmUnsupported || none.Header != `{"alg":"none"}` || none.Payload != `{"sub":"x"}` {
		t.Errorf("%+v", none)
	}
	for _, token := range []string{"", ".", "..", "a", "a.b", "é.é.é", "e30.e30"} {
		if got := jwt.Inspect(token); got.Reason == jwt.Valid {
			t.Errorf("%q: %+v", token, got)
		}
	}
}

// TestVerifyNamesRuleAndKey is what a person debugging a token asks.
func TestVerifyNamesRuleAndKey(t *testing.T) {
	v := newValidator(jwt.Rule{ID: "ns/a jwtRules[0]", Issuer: issuerA, FromHeaders: []jwt.HeaderLocation{{Name: "x"}}}, jwt.Rule{ID: "ns/b jwtRules[0]", Issuer: issuerB})
	verdicts := v.Verify(t.Context(), goodToken(), testNow)
	if len(verdicts) != 2 || verdicts[0].Rule != "ns/a jwtRules[0]" || verdicts[0].Reason != jwt.Valid || verdicts[0].KeyID != "es256" ||
		verdicts[0].Token == nil || verdicts[1].Reason != jwt.IssuerUnknown || verdicts[1].Token != nil {
		t.Errorf("%+v", verdicts)
	}
}
