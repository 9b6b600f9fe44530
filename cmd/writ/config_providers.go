package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider"
	"github.com/writ-auth/writ/authz/provider/opa"
)

// maxProviders bounds the lists of providers.
const maxProviders = 64

// providerConfig is one provider that CUSTOM policies may name: one of opa, grpc and http.
type providerConfig struct {
	Name          string              `yaml:"name"`
	Timeout       time.Duration       `yaml:"timeout"`
	FailOpen      bool                `yaml:"fail_open"`
	StatusOnError int                 `yaml:"status_on_error"`
	MaxConcurrent int                 `yaml:"max_concurrent"`
	AllowHeaders  []string            `yaml:"allow_headers"`
	OPA           *opaConfig          `yaml:"opa"`
	GRPC          *grpcProviderConfig `yaml:"grpc"`
	HTTP          *httpProviderConfig `yaml:"http"`
}

// opaConfig is Rego that this process evaluates.
type opaConfig struct {
	Bundle          string        `yaml:"bundle" rel:"bundle"` // file, directory or URL
	Decision        string        `yaml:"decision"`
	RegoV0          bool          `yaml:"rego_v0"`
	AllowBuiltins   []string      `yaml:"allow_builtins"`
	MaxInputBytes   int           `yaml:"max_input_bytes"`
	MaxMemory       int           `yaml:"max_memory"` // bytes
	ProtoDescriptor string        `yaml:"proto_descriptor" rel:"file"`
	Poll            time.Duration `yaml:"poll"`
	KeyFile         string        `yaml:"key_file" rel:"file"`
	KeyAlgorithm    string        `yaml:"key_algorithm"`
	KeyScope        string        `yaml:"key_scope"`
	CA              string        `yaml:"ca" rel:"file"`
	TokenFile       string        `yaml:"token_file" rel:"file"`
}

// grpcProviderConfig is a server of Envoy's gRPC authorization service.
type grpcProviderConfig struct {
	Target      string             `yaml:"target"`
	Timeout     time.Duration      `yaml:"timeout"` // the provider's own, written here
	Authority   string             `yaml:"authority"`
	TLS         *providerTLSConfig `yaml:"tls"`
	Connections int                `yaml:"connections"`
	Health      bool               `yaml:"health"`

	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	MaxAnswerBytes int           `yaml:"max_answer_bytes"`
	Breaker        breakerConfig `yaml:"breaker"`
}

// httpProviderConfig is a server of Envoy's HTTP authorization service.
type httpProviderConfig struct {
	Target                     string              `yaml:"target"`
	Timeout                    time.Duration       `yaml:"timeout"` // the provider's own, written here
	Authority                  string              `yaml:"authority"`
	TLS                        *providerTLSConfig  `yaml:"tls"`
	MaxConnections             int                 `yaml:"max_connections"`
	PathPrefix                 string              `yaml:"path_prefix"`
	IncludeRequestHeaders      []string            `yaml:"include_request_headers_in_check"`
	IncludeAdditionalHeaders   map[string]string   `yaml:"include_additional_headers_in_check"`
	IncludeRequestBody         *providerBodyConfig `yaml:"include_request_body_in_check"`
	HeadersToUpstreamOnAllow   []string            `yaml:"headers_to_upstream_on_allow"`
	HeadersToDownstreamOnAllow []string            `yaml:"headers_to_downstream_on_allow"`
	HeadersToDownstreamOnDeny  []string            `yaml:"headers_to_downstream_on_deny"`

	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	MaxAnswerBytes int           `yaml:"max_answer_bytes"`
	Breaker        breakerConfig `yaml:"breaker"`
}

// breakerConfig says when a server that does not answer is no longer asked.
type breakerConfig struct {
	Failures int           `yaml:"failures"`
	OpenFor  time.Duration `yaml:"open_for"`
}

// providerTLSConfig is whom to trust and who to be: PEM files, or an identity that a Workload API gives.
type providerTLSConfig struct {
	CA          string `yaml:"ca" rel:"file"`
	Cert        string `yaml:"cert" rel:"file"`
	Key         string `yaml:"key" rel:"file"`
	Identity    string `yaml:"identity"` // writ's own SPIFFE ID
	WorkloadAPI string `yaml:"workload_api" rel:"address"`
	ServerName  string `yaml:"server_name"`
}

type providerBodyConfig struct {
	MaxRequestBytes     int  `yaml:"max_request_bytes"`
	AllowPartialMessage bool `yaml:"allow_partial_message"`
}

// extensionConfig is an entry of MeshConfig's extensionProviders, in Istio's own words.
type extensionConfig struct{ text []byte } // JSON

// decode takes a block as it is; its fields are checked by the package that knows them.
func (e *extensionConfig) decode(n *yaml.Node) error {
	var v any
	if err := n.Decode(&v); err != nil {
		return err
	}
	var err error
	e.text, err = json.Marshal(v)
	return err
}

// opa is the configuration in the words of package opa.
func (c *opaConfig) config(name string) opa.Config {
	out := opa.Config{
		Name: name, Bundle: c.Bundle, Poll: c.Poll, Decision: c.Decision, V0: c.RegoV0, AllowBuiltins: c.AllowBuiltins,
		MaxInputBytes: c.MaxInputBytes, MaxMemory: c.MaxMemory, ProtoDescriptor: c.ProtoDescriptor, CA: c.CA, TokenFile: c.TokenFile,
	}
	if c.KeyFile != "" {
		out.Key = &opa.Key{File: c.KeyFile, Algorithm: c.KeyAlgorithm, Scope: c.KeyScope}
	}
	return out
}

// config is the configuration in the words of package provider. identity is that of its tls.
func (c *grpcProviderConfig) config(identity *provider.Identity) provider.GRPCConfig {
	return provider.GRPCConfig{
		Target: c.Target, Authority: c.Authority, TLS: c.TLS.config(identity), Connections: c.Connections, Health: c.Health,
		ConnectTimeout: c.ConnectTimeout, MaxAnswerBytes: c.MaxAnswerBytes, Breaker: provider.Breaker(c.Breaker),
	}
}

// config is the configuration in the words of package provider. identity is that of its tls.
func (c *httpProviderConfig) config(identity *provider.Identity) provider.HTTPConfig {
	out := provider.HTTPConfig{
		Target: c.Target, Authority: c.Authority, TLS: c.TLS.config(identity), MaxConnections: c.MaxConnections, PathPrefix: c.PathPrefix,
		ConnectTimeout: c.ConnectTimeout, MaxAnswerBytes: c.MaxAnswerBytes, Breaker: provider.Breaker(c.Breaker),
		IncludeRequestHeadersInCheck:    c.IncludeRequestHeaders,
		IncludeAdditionalHeadersInCheck: c.IncludeAdditionalHeaders,
		HeadersToUpstreamOnAllow:        c.HeadersToUpstreamOnAllow,
		HeadersToDownstreamOnAllow:      c.HeadersToDownstreamOnAllow,
		HeadersToDownstreamOnDeny:       c.HeadersToDownstreamOnDeny,
	}
	if b := c.IncludeRequestBody; b != nil {
		out.IncludeRequestBodyInCheck = &provider.Body{MaxRequestBytes: b.MaxRequestBytes, AllowPartialMessage: b.AllowPartialMessage}
	}
	return out
}

func (c *providerTLSConfig) config(identity *provider.Identity) *provider.TLS {
	if c == nil {
		return nil
	}
	return &provider.TLS{CA: c.CA, Cert: c.Cert, Key: c.Key, Identity: identity, ServerName: c.ServerName}
}

// timeout is the provider's, wherever it is written.
func (c *providerConfig) timeout() time.Duration {
	switch {
	case c.GRPC != nil && c.GRPC.Timeout != 0:
		return c.GRPC.Timeout
	case c.HTTP != nil && c.HTTP.Timeout != 0:
		return c.HTTP.Timeout
	}
	return c.Timeout
}

// checkProviders looks at whom CUSTOM policies may ask.
func (d *configDecoder) checkProviders(a *authzConfig) {
	if n := len(a.Providers) + len(a.ExtensionProviders); n > maxProviders {
		d.bad("authz.providers", "%d providers, at most %d", n, maxProviders)
		return
	}
	seen := map[string]bool{}
	once := func(key, name string) {
		if name != "" && seen[name] {
			d.bad(key, "%q is the name of another provider", name)
		}
		seen[name] = true
	}
	for i := range a.Providers {
		p, key := &a.Providers[i], fmt.Sprintf("authz.providers[%d]", i)
		once(key+".name", p.Name)
		d.checkProvider(key, p)
	}
	for i := range a.ExtensionProviders {
		key := fmt.Sprintf("authz.extension_providers[%d]", i)
		e, err := provider.ParseExtension(a.ExtensionProviders[i].text)
		if err != nil {
			d.badParts(key, err)
			continue
		}
		once(key, e.Name)
	}
}

func (d *configDecoder) checkProvider(key string, p *providerConfig) {
	if !authz.IsProviderName(p.Name) {
		d.bad(key+".name", "%q: want what CUSTOM policies call it: lower-case letters, digits and inner dashes, at most 63", p.Name)
	}
	kinds := 0
	for _, given := range []bool{p.OPA != nil, p.GRPC != nil, p.HTTP != nil} {
		if given {
			kinds++
		}
	}
	if kinds != 1 {
		d.bad(key, "want one of opa, grpc and http, not %d of them", kinds)
		return
	}
	switch t := p.timeout(); {
	case p.Timeout != 0 && t != p.Timeout:
		d.bad(key+".timeout", "%v, and %v in the block of its kind: write it once", p.Timeout, t)
	case t < 0 || t > authz.MaxProviderTimeout:
		d.bad(key+".timeout", "%v: want more than 0, at most %v", t, authz.MaxProviderTimeout)
	}
	if p.StatusOnError != 0 && !authz.IsProviderStatus(p.StatusOnError) {
		d.bad(key+".status_on_error", "%d: want an HTTP status from 200 to 599", p.StatusOnError)
	}
	if p.MaxConcurrent < 0 || p.MaxConcurrent > authz.MaxMaxConcurrent {
		d.bad(key+".max_concurrent", "%d: want 1 to %d", p.MaxConcurrent, authz.MaxMaxConcurrent)
	}
	for i, name := range p.AllowHeaders {
		if err := authz.Changeable(name); err != nil {
			d.bad(fmt.Sprintf("%s.allow_headers[%d]", key, i), "%v", err)
		}
	}
	switch {
	case p.OPA != nil:
		if p.OPA.KeyFile == "" && (p.OPA.KeyAlgorithm != "" || p.OPA.KeyScope != "") {
			d.bad(key+".opa.key_file", "missing: name the PEM file with the key that bundles are signed for")
		}
		c := p.OPA.config(p.Name)
		d.badParts(key+".opa", c.Check())
	case p.GRPC != nil:
		c := p.GRPC.config(d.checkProviderTLS(key+".grpc.tls", p.GRPC.TLS))
		d.badParts(key+".grpc", c.Check())
	case p.HTTP != nil:
		c := p.HTTP.config(d.checkProviderTLS(key+".http.tls", p.HTTP.TLS))
		d.badParts(key+".http", c.Check())
	}
}

// badParts reports each part of an error under the key it is about, if it names one.
func (d *configDecoder) badParts(key string, err error) {
	var problems provider.Problems
	var several interface{ Unwrap() []error }
	switch {
	case err == nil:
	case errors.As(err, &problems):
		for _, p := range problems {
			d.badPart(key, p.Field, p.Message)
		}
	case errors.As(err, &several):
		for _, part := range several.Unwrap() {
			d.badParts(key, part)
		}
	default:
		field, message, ok := strings.Cut(err.Error(), ": ")
		if !ok || strings.ContainsAny(field, " /") {
			d.bad(key, "%v", err)
			return
		}
		d.badPart(key, field, message)
	}
}

// badPart reports a problem of a field, at the place of its block if the field is not there or not known.
func (d *configDecoder) badPart(key, field, message string) {
	full := key + "." + field
	if _, ok := d.places[full]; !ok {
		if place, ok := d.places[key]; ok {
			place.Key = full
			d.places[full] = place
		}
	}
	d.bad(full, "%s", message)
}
