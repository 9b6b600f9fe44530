package jwt_test

import (
	"context"
	"fmt"
	"time"

	"github.com/writ-auth/writ/jwt"
)

func ExampleValidator() {
	const keys = `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	rules := []jwt.Rule{{ID: "shop/idp jwtRules[0]", Issuer: "https://idp.example", Audiences: []string{"shop"}, JWKS: keys}}

	// Keys that are not inline come from an address; a KeySet is a source whose keys never change.
	sources := func(r jwt.Rule) jwt.Source {
		set, err := jwt.ParseKeySet([]byte(r.JWKS))
		if err != nil {
			return nil // every token of the rule is refused
		}
		return set
	}
	validator := jwt.NewValidator(rules, sources, jwt.Options{Cache: jwt.NewCache(0, 0)})

	var out jwt.Result
	for _, headers := range [][]jwt.Header{nil, {{Name: "authorization", Value: "Bearer not.a.token"}}} {
		in := jwt.Input{Headers: headers, Method: "GET", Path: "/orders?page=2", Host: "shop.example", Scheme: "https", Now: time.Now()}
		validator.Validate(context.Background(), &in, &out)
		fmt.Printf("%d %s %q\n", out.Status, out.Reason, out.Body)
	}
	fmt.Println(out.Authenticate)
	// Output:
	// 0 valid ""
	// 401 header_json "Jwt header is an invalid JSON"
	// Bearer realm="https://shop.example/orders", error="invalid_token"
}
