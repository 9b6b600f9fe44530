package main

import (
	"bytes"
	_ "embed" // the template below
	"fmt"
	"net"
	"text/template"
)

//go:embed sidecar.yaml.tmpl
var sidecarTemplate string

// sidecar is what differs between the Envoys of the shop.
type sidecar struct {
	Service   string
	Port      int    // inbound, mutual TLS
	Plaintext bool   // and plaintext, too
	Labels    string // k=v,k=v; empty = the sidecar does not say whom it protects
	Backend   string // host:port of the service
	Agent     string // path of the Unix socket that gives it its identity
	Writ      string // path of the authority's Unix socket
	TCP       *tcpService
	Calls     []peer // services this one calls
}

// tcpService is a TCP port next to a service.
type tcpService struct {
	Port    int
	Labels  string
	Backend string // host:port
}

// peer is a service as its callers know it.
type peer struct {
	Service string
	Address string // host:port of its sidecar
	ID      string // SPIFFE ID its certificate must have
}

// bootstrap renders the Envoy configuration.
func (s sidecar) bootstrap() (string, error) {
	parsed, err := template.New("sidecar").Funcs(template.FuncMap{
		"host": func(address string) (string, error) { host, _, err := net.SplitHostPort(address); return host, err },
		"port": func(address string) (string, error) { _, port, err := net.SplitHostPort(address); return port, err },
	}).Parse(sidecarTemplate)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, s); err != nil {
		return "", fmt.Errorf("sidecar of %s: %w", s.Service, err)
	}
	return out.String(), nil
}
