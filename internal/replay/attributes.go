package replay

import (
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// attributes are things of a request that a record may lack.
type attributes uint16

const (
	lacksIdentity attributes = 1 << iota // names of the peer certificate
	lacksSourceIP
	lacksRemoteIP
	lacksDestinationIP
	lacksPort
	lacksSNI
	lacksMethod
	lacksPath
	lacksQuery // the path as it was sent, which is the header :path
	lacksHost
	lacksHeaders          // all but those that the record's layout holds
	lacksRequestPrincipal // iss and sub of the token
	lacksClaims           // other claims of it
	lacksMetadata         // of the proxy's filters
)

// ofHTTP are those that a TCP connection does not have: it is known that it has none.
const ofHTTP = lacksMethod | lacksPath | lacksQuery | lacksHost | lacksHeaders | lacksRequestPrincipal | lacksClaims

// ofToken are those that a request without a token does not have.
const ofToken = lacksRequestPrincipal | lacksClaims

// layout is which headers records of one kind hold.
type layout struct{ headers []string }

// shape is what one record lacks. Records of one shape share relaxed rules.
type shape struct {
	lacks   attributes
	missing uint32 // of layout.headers, by index, those that this record lacks
	layout  *layout
}

// header reports whether the record lacks a header, given in lower case.
func (s *shape) header(name string) bool {
	switch name {
	case ":authority", "host":
		return s.lacks&lacksHost != 0
	case ":method":
		return s.lacks&lacksMethod != 0
	case ":path":
		return s.lacks&(lacksPath|lacksQuery) != 0
	}
	if s.lacks&lacksHeaders == 0 {
		return false
	}
	for i, known := range s.layout.headers {
		if known == name {
			return s.missing&(1<<i) != 0
		}
	}
	return true
}

// key reports whether the record lacks what a when key reads. A key that is not known here may read anything.
func (s *shape) key(key string) bool {
	name, argument, _ := strings.Cut(key, "[")
	switch {
	case name == "request.headers":
		return s.header(strings.ToLower(strings.TrimSuffix(argument, "]")))
	case strings.HasPrefix(name, "experimental.envoy.filters."):
		return s.lacks&lacksMetadata != 0
	}
	needs := map[string]attributes{
		"source.ip": lacksSourceIP, "remote.ip": lacksRemoteIP, "destination.ip": lacksDestinationIP, "destination.port": lacksPort,
		"source.namespace": lacksIdentity, "source.principal": lacksIdentity, "source.serviceAccount": lacksIdentity,
		"source.trustDomain": lacksIdentity, "connection.sni": lacksSNI, "request.auth.principal": lacksRequestPrincipal,
		"request.auth.audiences": lacksClaims, "request.auth.presenter": lacksClaims, "request.auth.claims": lacksClaims,
	}
	needed, ok := needs[name]
	return !ok || s.lacks&needed != 0
}

// list is one field of a source or operation: its values, its not-values, and what it reads.
type list struct {
	name        string
	reads       attributes
	values, not *[]string
}

func sourceLists(s *securityv1beta1.Source) []list {
	return []list{
		{"source.principal", lacksIdentity, &s.Principals, &s.NotPrincipals},
		{"source.namespace", lacksIdentity, &s.Namespaces, &s.NotNamespaces},
		{"source.serviceAccount", lacksIdentity, &s.ServiceAccounts, &s.NotServiceAccounts},
		{"source.trustDomain", lacksIdentity, &s.TrustDomains, &s.NotTrustDomains},
		{"request.auth.principal", lacksRequestPrincipal, &s.RequestPrincipals, &s.NotRequestPrincipals},
		{"source.ip", lacksSourceIP, &s.IpBlocks, &s.NotIpBlocks},
		{"remote.ip", lacksRemoteIP, &s.RemoteIpBlocks, &s.NotRemoteIpBlocks},
	}
}

func operationLists(o *securityv1beta1.Operation) []list {
	return []list{
		{"host", lacksHost, &o.Hosts, &o.NotHosts},
		{"destination.port", lacksPort, &o.Ports, &o.NotPorts},
		{"method", lacksMethod, &o.Methods, &o.NotMethods},
		{"path", lacksPath, &o.Paths, &o.NotPaths},
	}
}

// relaxLists removes the conditions that read what the record lacks, and returns the name of the first one.
func (s *shape) relaxLists(lists []list) (lacked string) {
	for _, l := range lists {
		if s.lacks&l.reads == 0 || len(*l.values) == 0 && len(*l.not) == 0 {
			continue
		}
		*l.values, *l.not = nil, nil
		if lacked == "" {
			lacked = l.name
		}
	}
	return lacked
}
