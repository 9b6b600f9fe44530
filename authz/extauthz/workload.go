package extauthz

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// named is a workload as one of the proxy's own settings names it, in text.
type named struct {
	namespace, labels, serviceAccount, name, service string

	hasNamespace, hasLabels bool
}

// Keys of context_extensions. The filter's initial_metadata uses the same words with a dash, for gRPC metadata keys
// have no dots to spare: writ-namespace, writ-labels, ….
const (
	keyNamespace      = "namespace"
	keyLabels         = "labels"
	keyServiceAccount = "service_account"
	keyName           = "name"
	keyService        = "service"

	extensionPrefix = "writ."
	metadataPrefix  = "writ-"
)

// decode reads one entry of context_extensions; entries that are not ours are skipped.
func (n *named) decode(b []byte) error {
	key, raw, err := entry(b)
	if err != nil {
		return err
	}
	word, ours := strings.CutPrefix(key, extensionPrefix)
	if !ours {
		return nil
	}
	value, err := text(raw)
	if err != nil {
		return err
	}
	n.set(word, value)
	return nil
}

func (n *named) set(word, value string) {
	switch word {
	case keyNamespace:
		n.namespace, n.hasNamespace = value, true
	case keyLabels:
		n.labels, n.hasLabels = value, true
	case keyServiceAccount:
		n.serviceAccount = value
	case keyName:
		n.name = value
	case keyService:
		n.service = value
	}
}

// fromMetadata reads the gRPC filter's initial_metadata. Only Envoy's configuration sets it; the request it asks
// about cannot.
func (n *named) fromMetadata(ctx context.Context) error {
	for _, key := range [...]struct{ metadata, word string }{
		{metadataPrefix + "namespace", keyNamespace}, // first: without it nothing else counts
		{metadataPrefix + "labels", keyLabels},
		{metadataPrefix + "service-account", keyServiceAccount},
		{metadataPrefix + "name", keyName},
		{metadataPrefix + "service", keyService},
	} {
		switch values := metadata.ValueFromIncomingContext(ctx, key.metadata); len(values) {
		case 0:
			if key.word == keyNamespace {
				return nil
			}
		case 1:
			n.set(key.word, values[0])
		default:
			return fmt.Errorf("initial_metadata %s is set %d times", key.metadata, len(values))
		}
	}
	return nil
}

// What a resolution key starts with: the source it was made from, so that no two sources share an entry.
const (
	fromExtensions = 'x'
	fromInitial    = 'm'
	fromPrincipal  = 'p'
	fromCaller     = 'w'
)

// resolve finds the rules of the workload the request is for. The operator's own configuration names it: the
// context_extensions of the route, else the filter's initial_metadata, else the certificate the proxy serves with.
// The first source that names a namespace is the only one that counts.
func (c *call) resolve(ctx context.Context, snap *policy.Snapshot) (*policy.Bound, *refusal) {
	m := &c.message
	source, where := &m.extensions, byte(fromExtensions)
	if !source.hasNamespace {
		c.initial = named{}
		if err := c.initial.fromMetadata(ctx); err != nil {
			return nil, &refusal{authz.ReasonUnknownWorkload, err.Error()}
		}
		source, where = &c.initial, fromInitial
	}
	if !source.hasNamespace {
		return c.resolvePrincipal(snap)
	}
	c.key = source.appendKey(append(c.key[:0], where))
	if bound := snap.Cached(c.key); bound != nil {
		return bound, nil
	}
	w, refused := source.workload()
	if refused != nil {
		return nil, refused
	}
	return bind(snap, c.key, w)
}

// resolvePrincipal names the workload by the SPIFFE ID of the certificate the proxy serves with.
func (c *call) resolvePrincipal(snap *policy.Snapshot) (*policy.Bound, *refusal) {
	m := &c.message
	c.key = appendText(append(c.key[:0], fromPrincipal), m.destination.principal)
	for _, l := range m.labels { // in wire order: another order is another entry, with the same answer
		c.key = appendText(appendText(c.key, l.key), l.value)
	}
	if bound := snap.Cached(c.key); bound != nil {
		return bound, nil
	}
	namespace, account, ok := parsePrincipal(m.destination.principal)
	if !ok {
		return nil, noWorkload(m.destination.principal)
	}
	w := policy.Workload{Namespace: strings.Clone(namespace), ServiceAccount: strings.Clone(account)}
	if len(m.labels) > 0 {
		w.Labels = make(map[string]string, len(m.labels))
		for _, l := range m.labels {
			w.Labels[strings.Clone(l.key)] = strings.Clone(l.value)
		}
	}
	return bind(snap, c.key, w)
}

// bind resolves w and remembers it, or says what the operator has to configure.
func bind(snap *policy.Snapshot, key []byte, w policy.Workload) (*policy.Bound, *refusal) {
	bound, err := snap.Bind(key, w)
	switch {
	case err == nil && bound != nil:
		return bound, nil
	case errors.Is(err, policy.ErrUnknownLabels):
		return nil, &refusal{authz.ReasonUnknownLabels, fmt.Sprintf("workload %s: %v; set context_extensions "+
			"writ.labels (writ.labels: \"\" says that it has none), or register a WorkloadEntry or WorkloadGroup for its service account", shown(&w), err)}
	case errors.Is(err, policy.ErrAmbiguous):
		return nil, &refusal{authz.ReasonAmbiguousWorkload, fmt.Sprintf("workload %s: %v; set context_extensions writ.labels on this proxy", shown(&w), err)}
	case errors.Is(err, policy.ErrNoWorkload):
		return nil, noWorkload("")
	}
	return nil, &refusal{authz.ReasonUnknownWorkload, fmt.Sprintf("workload %s: %v", shown(&w), err)}
}

// shown names a workload by what is known of it.
func shown(w *policy.Workload) string {
	switch {
	case w.ServiceAccount != "":
		return w.Namespace + "/" + w.ServiceAccount
	case w.Name != "":
		return w.Namespace + "/" + w.Name
	}
	return "of namespace " + w.Namespace
}

func noWorkload(principal string) *refusal {
	seen := "the proxy's own certificate is not known either"
	if principal != "" {
		seen = fmt.Sprintf("destination.principal %.200q is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT", principal)
	}
	return &refusal{authz.ReasonUnknownWorkload, policy.ErrNoWorkload.Error() + ": set context_extensions writ.namespace and " +
		"writ.labels on the route or virtual host, or initial_metadata writ-namespace and writ-labels on the filter; " + seen}
}

// appendKey makes key bytes of everything that is named. Lengths keep neighbours apart.
func (n *named) appendKey(key []byte) []byte {
	key = appendKnown(key, n.hasLabels)
	for _, s := range [...]string{n.namespace, n.labels, n.serviceAccount, n.name, n.service} {
		key = appendText(key, s)
	}
	return key
}

// appendKnown tells labels that are not known from labels known to be none.
func appendKnown(key []byte, known bool) []byte {
	if known {
		return append(key, 1)
	}
	return append(key, 0)
}

func appendText(key []byte, s string) []byte {
	return append(binary.AppendUvarint(key, uint64(len(s))), s...)
}

// workload parses what is named. A label that does not parse is not taken for another one: a selector that misses
// because of it could open what it closes.
func (n *named) workload() (policy.Workload, *refusal) {
	if !isDNSLabel(n.namespace) {
		return policy.Workload{}, &refusal{authz.ReasonUnknownWorkload,
			fmt.Sprintf("workload namespace %.100q: want the name of a namespace, such as coffee-shop", n.namespace)}
	}
	w := policy.Workload{
		Namespace:      strings.Clone(n.namespace),
		ServiceAccount: strings.Clone(n.serviceAccount),
		Name:           strings.Clone(n.name),
	}
	var err error
	if n.hasLabels {
		if w.Labels, err = parseLabels(n.labels); err != nil {
			return policy.Workload{}, &refusal{authz.ReasonUnknownLabels,
				fmt.Sprintf("workload in %s: labels %.200q: %v; want k=v,k=v", w.Namespace, n.labels, err)}
		}
	}
	if w.Services, err = parseServices(n.service); err != nil {
		return policy.Workload{}, &refusal{authz.ReasonUnknownWorkload,
			fmt.Sprintf("workload in %s: service %.200q: %v; want NAMESPACE/NAME, or ServiceEntry NAMESPACE/NAME, with commas between",
				w.Namespace, n.service, err)}
	}
	return w, nil
}

// parseLabels reads k=v,k=v. The result is never nil: "" says that there are none.
func parseLabels(s string) (map[string]string, error) {
	labels := make(map[string]string)
	if strings.TrimSpace(s) == "" {
		return labels, nil
	}
	for item := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(item), "=")
		switch {
		case !ok || key == "":
			return nil, fmt.Errorf("%.100q is not k=v", item)
		case !isLabelText(key) || !isLabelText(value):
			return nil, fmt.Errorf("%.100q: a label holds letters, digits and - _ . / only", item)
		}
		if before, twice := labels[key]; twice && before != value {
			return nil, fmt.Errorf("%q is given twice", key)
		}
		labels[strings.Clone(key)] = strings.Clone(value)
	}
	return labels, nil
}

// parseServices reads a comma list of "ns/name" (a Service) or "Kind ns/name".
func parseServices(s string) ([]string, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var services []string
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		kind, name, ok := strings.Cut(item, " ")
		if !ok {
			kind, name = "Service", item
		}
		namespace, rest, ok := strings.Cut(name, "/")
		if !ok || !isDNSLabel(namespace) || rest == "" || !isLabelText(rest) || strings.Contains(rest, "/") ||
			(kind != "Service" && kind != "ServiceEntry") {
			return nil, fmt.Errorf("%.100q is not a service", item)
		}
		services = append(services, kind+" "+name)
	}
	return services, nil
}

// parsePrincipal takes a SPIFFE ID of exactly the form spiffe://TD/ns/NS/sa/SA apart.
func parsePrincipal(id string) (namespace, account string, ok bool) {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok || strings.Count(rest, "/") != 4 {
		return "", "", false
	}
	domain, rest, _ := strings.Cut(rest, "/")
	rest, isNS := strings.CutPrefix(rest, "ns/")
	namespace, rest, _ = strings.Cut(rest, "/")
	account, isSA := strings.CutPrefix(rest, "sa/")
	ok = domain != "" && isNS && isSA && isDNSLabel(namespace) && account != ""
	return namespace, account, ok
}

// isDNSLabel reports whether s can be the name of a namespace (RFC 1123 label).
func isDNSLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// isLabelText reports whether s has only characters that label keys and values are made of.
func isLabelText(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && strings.IndexByte("-_./", c) < 0 {
			return false
		}
	}
	return true
}

// bindWorkload resolves a workload that a caller names in full, under a key of its own kind.
func (c *call) bindWorkload(snap *policy.Snapshot, w *policy.Workload) (*policy.Bound, *refusal) {
	if w.Namespace == "" {
		return nil, noWorkload("")
	}
	key := appendKnown(append(c.key[:0], fromCaller), w.Labels != nil)
	for _, s := range [...]string{w.Namespace, w.ServiceAccount, w.Name} {
		key = appendText(key, s)
	}
	key = binary.AppendUvarint(key, uint64(len(w.Labels)))
	for _, k := range slices.Sorted(maps.Keys(w.Labels)) {
		key = appendText(appendText(key, k), w.Labels[k])
	}
	for _, s := range w.Services {
		key = appendText(key, s)
	}
	c.key = key
	if bound := snap.Cached(key); bound != nil {
		return bound, nil
	}
	return bind(snap, key, *w)
}
