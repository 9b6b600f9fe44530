package replay

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// slot is what a field of an access log fills.
type slot uint8

const (
	slotTime slot = iota
	slotRequestID
	slotMethod
	slotPath
	slotHost
	slotIdentity
	slotSourceIP
	slotRemoteIP
	slotDestinationIP
	slotPort
	slotSNI
	slotNamespace
	slotLabels
	slotServiceAccount
	slotName
	slotHeader // the first header; the others follow
)

// maxFieldHeaders is how many headers an access log may hold.
const maxFieldHeaders = 32

// slots are the attributes by their names, which are those of when keys where there are any, with what a record without
// the field lacks and the fields that hold them unless said otherwise: those of Istio's access log come first.
type slotRow struct {
	name   string
	lacks  attributes
	fields []string
}

func slotRows() []slotRow {
	return []slotRow{
		slotTime:           {"time", 0, []string{"start_time", "timestamp", "time"}},
		slotRequestID:      {"request.id", 0, []string{"request_id", "x-request-id", "x_request_id"}},
		slotMethod:         {"method", lacksMethod, []string{"method", "request_method", ":method"}},
		slotPath:           {"path", lacksPath, []string{"path", "x-envoy-original-path", "request_path", ":path"}},
		slotHost:           {"host", lacksHost, []string{"authority", ":authority", "host"}},
		slotIdentity:       {"source.principal", lacksIdentity, []string{"downstream_peer_uri_san", "peer_uri_san", "source_principal"}},
		slotSourceIP:       {"source.ip", lacksSourceIP, []string{"downstream_direct_remote_address", "downstream_direct_remote_address_without_port"}},
		slotRemoteIP:       {"remote.ip", lacksRemoteIP, []string{"downstream_remote_address", "downstream_remote_address_without_port"}},
		slotDestinationIP:  {"destination.ip", lacksDestinationIP, []string{"downstream_local_address", "downstream_local_address_without_port"}},
		slotPort:           {"destination.port", lacksPort, []string{"downstream_local_address", "downstream_local_port"}},
		slotSNI:            {"connection.sni", lacksSNI, []string{"requested_server_name"}},
		slotNamespace:      {"workload.namespace", 0, nil},
		slotLabels:         {"workload.labels", 0, nil},
		slotServiceAccount: {"workload.service_account", 0, nil},
		slotName:           {"workload.name", 0, nil},
	}
}

// Fields says which fields of an access log hold which attributes. It is immutable.
type Fields struct {
	rows   []slotRow
	layout *layout
	index  map[string][]placed // by field
	all    attributes          // what a record without any of the fields lacks
}

// placed is a field that fills a slot; of several, the one with the smallest rank counts.
type placed struct {
	slot slot
	rank uint8
}

// DefaultFields are those of Istio's access log in JSON, and other common names.
func DefaultFields() *Fields {
	f, err := NewFields(nil)
	if err != nil {
		panic("replay: the default fields: " + err.Error()) // a table of this file
	}
	return f
}

// NewFields puts other fields in the place of the default ones. overrides maps attributes, such as source.principal,
// request.headers[x-team] or workload.namespace, to the field of the log that holds it; an empty field says that none does.
func NewFields(overrides map[string]string) (*Fields, error) {
	f := &Fields{rows: slotRows(), layout: &layout{}, index: map[string][]placed{}}
	headers := map[string][]string{
		"user-agent": {"user_agent"}, "x-forwarded-for": {"x_forwarded_for"}, "x-request-id": {"request_id", "x-request-id", "x_request_id"},
	}
	var known []string
	for _, row := range f.rows {
		known = append(known, row.name)
	}
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		fields := []string{overrides[name]}
		if overrides[name] == "" {
			fields = nil
		}
		if header, ok := strings.CutPrefix(name, "request.headers["); ok && strings.HasSuffix(header, "]") && len(header) > 1 {
			headers[strings.ToLower(strings.TrimSuffix(header, "]"))] = fields
			continue
		}
		i := slices.Index(known, name)
		if i < 0 {
			return nil, fmt.Errorf("unknown attribute %q: want one of %s, or request.headers[NAME]", name, strings.Join(known, ", "))
		}
		f.rows[i].fields = fields
	}
	if len(headers) > maxFieldHeaders {
		return nil, fmt.Errorf("%d headers: at most %d", len(headers), maxFieldHeaders)
	}
	f.layout.headers = slices.Sorted(maps.Keys(headers))
	for i, row := range f.rows {
		f.all |= row.lacks
		f.place(slot(i), row.fields) //nolint:gosec // a few rows
	}
	for i, name := range f.layout.headers {
		f.place(slotHeader+slot(i), headers[name]) //nolint:gosec // at most maxFieldHeaders
	}
	f.all |= lacksHeaders | lacksMetadata | ofToken | lacksQuery
	return f, nil
}

func (f *Fields) place(s slot, fields []string) {
	for rank, field := range fields {
		f.index[field] = append(f.index[field], placed{s, uint8(rank)}) //nolint:gosec // a few fields
	}
}
