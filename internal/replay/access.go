package replay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// errNoMethod is a line that may be of an HTTP request or of a TCP connection.
var errNoMethod = errors.New("no field holds the method: which one does, says --map")

// accessLine collects what the fields of one line hold, by slot.
type accessLine struct {
	values [int(slotHeader) + maxFieldHeaders]string
	ranks  [int(slotHeader) + maxFieldHeaders]uint8 // of the field that counts, plus one; 0: there is none
}

// readAccess reads one line of Envoy's access log in JSON. What no field holds is lacking; "-" and null say that the
// request has no such thing.
func (r *record) readAccess(line string, f *Fields, paths extauthz.PathMode) error {
	r.reset(f.layout)
	var a accessLine
	err := members(line, func(key, value string) error {
		for _, p := range f.index[key] {
			if rank := p.rank + 1; a.ranks[p.slot] == 0 || rank < a.ranks[p.slot] {
				a.ranks[p.slot], a.values[p.slot] = rank, value
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case a.ranks[slotMethod] == 0:
		return errNoMethod
	}
	r.shape.lacks = f.all
	for i, row := range f.rows {
		if a.ranks[i] != 0 {
			r.shape.lacks &^= row.lacks
		}
	}
	r.fromAccess(&a)
	for i, name := range f.layout.headers {
		at := int(slotHeader) + i
		if a.ranks[at] == 0 {
			r.shape.missing |= 1 << i
		} else if value, ok := logged(a.values[at]); ok {
			r.request.Headers = append(r.request.Headers, policy.Header{Name: name, Value: value})
		}
	}
	r.settled = !r.request.TCP && paths != extauthz.PathsNone && refusedPath(r.request.Path)
	return nil
}

func (r *record) fromAccess(a *accessLine) {
	q := &r.request
	r.time, _ = logged(a.values[slotTime])
	r.requestID, _ = logged(a.values[slotRequestID])
	q.Method, q.HasMethod = logged(a.values[slotMethod])
	q.TCP = !q.HasMethod
	if !q.TCP {
		q.RawPath, _ = logged(a.values[slotPath])
		q.Path = withoutQuery(q.RawPath)
		if len(q.Path) < len(q.RawPath) { // the log keeps queries
			r.shape.lacks &^= lacksQuery
		}
		q.Host, q.HasHost = logged(a.values[slotHost])
	}
	if names, ok := logged(a.values[slotIdentity]); ok {
		for name := range strings.SplitSeq(names, ",") {
			q.Names = append(q.Names, strings.TrimSpace(name))
		}
	}
	q.SourceIP, _ = hostPort(a.values[slotSourceIP])
	q.RemoteIP, _ = hostPort(a.values[slotRemoteIP])
	q.DestIP, _ = hostPort(a.values[slotDestinationIP])
	if _, q.DestPort = hostPort(a.values[slotPort]); q.DestPort == 0 {
		r.shape.lacks |= lacksPort // an address without port
	}
	q.SNI, _ = logged(a.values[slotSNI])
	if namespace, ok := logged(a.values[slotNamespace]); ok {
		labels, known := logged(a.values[slotLabels])
		account, _ := logged(a.values[slotServiceAccount])
		name, _ := logged(a.values[slotName])
		r.workload = strings.Join([]string{namespace, strconv.FormatBool(known), labels, account, name}, "\x00")
		r.parse = parseAccessWorkload
	}
}

// logged is a value as text. Envoy writes "-" or null for what there is not.
func logged(value string) (text string, there bool) {
	if value == "" || value == "null" || value == `"-"` || value == `""` {
		return "", false
	}
	if value[0] == '"' {
		return unquote(value)
	}
	return value, true
}

// hostPort reads an address, a port, or both.
func hostPort(value string) (netip.Addr, uint16) {
	text, _ := logged(value)
	host, port := text, ""
	if h, p, err := net.SplitHostPort(text); err == nil {
		host, port = h, p
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil && port == "" {
		port = host
	}
	n, _ := strconv.ParseUint(port, 10, 16)
	return a.WithZone(""), uint16(n)
}

func parseAccessWorkload(text string) (*policy.Workload, error) {
	part := strings.Split(text, "\x00")
	w := &policy.Workload{Namespace: part[0], ServiceAccount: part[3], Name: part[4]}
	if part[1] != "true" {
		return w, nil
	}
	w.Labels = map[string]string{}
	for pair := range strings.SplitSeq(part[2], ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("labels %.100q: want k=v,k=v", part[2])
		}
		w.Labels[key] = value
	}
	return w, nil
}

// refusedPath reports whether the server refuses the path because the proxy should have normalized it.
func refusedPath(path string) bool {
	if !strings.ContainsAny(path, "\\%\x00") && !strings.Contains(path, "/.") {
		return false
	}
	field := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	http := append(field(2, []byte("GET")), field(4, []byte(path))...) // method, path
	var q policy.Request
	_, err := extauthz.DecodeRequest(field(1, field(4, field(2, http))), extauthz.Options{}, &q) // attributes.request.http
	return err != nil
}
