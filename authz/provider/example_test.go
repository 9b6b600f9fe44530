package provider_test

import (
	"fmt"

	"github.com/writ-auth/writ/authz/provider"
)

// An entry of Istio's MeshConfig becomes a provider of the same name.
func ExampleParseExtension() {
	e, err := provider.ParseExtension([]byte(`{
		"name": "legacy",
		"envoyExtAuthzGrpc": {"service": "authz.legacy.svc.cluster.local", "port": 9000, "timeout": "0.2s", "failOpen": false}
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	p, err := provider.NewGRPC(*e.GRPC)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	fmt.Println(e.Name, e.GRPC.Target, e.Timeout, p.Circuit().Open)
	// Output: legacy dns:///authz.legacy.svc.cluster.local:9000 200ms false
}
