package main

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/writ-auth/writ/authz/provider"
)

// checkIdentities says whose Workload API gives writ's own identities, and looks for what it needs to give them. Without an
// address it is the one that this authority serves itself.
func (d *configDecoder) checkIdentities(c *config) {
	for i := range c.Authz.Providers {
		key, t := c.Authz.Providers[i].tls()
		key = fmt.Sprintf("authz.providers[%d].%s", i, key)
		switch {
		case t == nil:
		case t.Identity == "" && t.WorkloadAPI != "":
			d.bad(key+".workload_api", "given without identity: name the SPIFFE ID that writ is to have, or remove it")
		case t.Identity == "":
		case t.WorkloadAPI != "":
			d.checkSocket(key+".workload_api", t.WorkloadAPI, "callers are told apart by the kernel")
		case c.SDS == nil:
			d.bad(key, "workload_api is missing: name the socket of this machine's agent (its sds.listen, such as unix:///run/writ/sds.sock), or have this authority serve one: sds")
		default:
			t.WorkloadAPI = c.SDS.Listen
			if !slices.ContainsFunc(c.SDS.Workloads, func(w workloadConfig) bool { return w.ID == t.Identity }) {
				d.bad(key+".identity", "%s is not in sds.workloads: add it there, with the uid or path that writ itself runs as", t.Identity)
			}
		}
	}
}

// checkProviderTLS looks at an identity, and returns it for the checks of package provider; nil if there is none.
func (d *configDecoder) checkProviderTLS(key string, t *providerTLSConfig) *provider.Identity {
	if t == nil || t.Identity == "" {
		return nil
	}
	identity, err := provider.NewIdentity(provider.IdentityConfig{ID: t.Identity, Socket: "checked apart"})
	if err != nil {
		d.bad(key+".identity", "%v", err)
	}
	return identity
}

// tls is the block of a server's connection with its key, nil if there is none.
func (c *providerConfig) tls() (string, *providerTLSConfig) {
	switch {
	case c.GRPC != nil:
		return "grpc.tls", c.GRPC.TLS
	case c.HTTP != nil:
		return "http.tls", c.HTTP.TLS
	}
	return "", nil
}

// identities are who writ is to providers: each identity of each Workload API once, however many providers know it.
type identities struct {
	log *slog.Logger
	all map[[2]string]*provider.Identity // by SPIFFE ID and socket
}

// of returns the identity of a configuration that was checked, nil if it has none.
func (ids *identities) of(t *providerTLSConfig) (*provider.Identity, error) {
	if t == nil || t.Identity == "" {
		return nil, nil
	}
	name := [2]string{t.Identity, t.WorkloadAPI}
	if known := ids.all[name]; known != nil {
		return known, nil
	}
	socket, err := parseAddress(t.WorkloadAPI)
	if err != nil {
		return nil, fmt.Errorf("tls.workload_api: %w", err)
	}
	made, err := provider.NewIdentity(provider.IdentityConfig{ID: t.Identity, Socket: socket.address, Logger: ids.log})
	if err != nil {
		return nil, fmt.Errorf("tls.identity: %w", err)
	}
	if ids.all == nil {
		ids.all = map[[2]string]*provider.Identity{}
	}
	ids.all[name] = made
	return made, nil
}

// identityEnds is when the certificate for a provider ends, zero while there is none that is good.
func identityEnds(identity *provider.Identity) time.Time {
	if s := identity.Status(); s.Ready {
		return s.NotAfter
	}
	return time.Time{}
}

// identityNote says in words how the certificate for a provider is doing.
func identityNote(s *provider.IdentityStatus) string {
	if !s.Ready {
		return "no certificate for " + s.ID
	}
	return "as " + s.ID + " until " + s.NotAfter.UTC().Format(time.RFC3339)
}
