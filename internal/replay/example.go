package replay

import (
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/writ-auth/writ/policy"
)

// maxExampleText bounds one value of an example, in bytes.
const maxExampleText = 256

// Example is one request as it may be shown: no header, no query and no token is part of it.
type Example struct {
	Time       time.Time `json:"time,omitzero"`
	DecisionID string    `json:"decision_id,omitempty"`
	RequestID  string    `json:"request_id,omitempty"`
	Workload   string    `json:"workload,omitempty"` // namespace/name
	Source     string    `json:"source,omitempty"`   // the caller's identity
	SourceIP   string    `json:"source_ip,omitempty"`
	Port       uint16    `json:"port,omitempty"`
	TCP        bool      `json:"tcp,omitempty"`
	Method     string    `json:"method,omitempty"`
	Host       string    `json:"host,omitempty"`
	Path       string    `json:"path,omitempty"`  // without query
	Place      string    `json:"place,omitempty"` // file:line of the record
}

// String describes the request in one line.
func (e *Example) String() string {
	from := e.Source
	if from == "" {
		from = "no identity"
	}
	text := "TCP connection"
	if !e.TCP {
		text = strings.TrimSpace(e.Method + " " + e.Host + e.Path)
	}
	if e.Workload != "" {
		text += " to " + e.Workload
	}
	text += " from " + from
	if e.SourceIP != "" {
		text += " (" + e.SourceIP + ")"
	}
	return text
}

// exampleOf copies what may be shown of a request.
func exampleOf(r *policy.Request, w *policy.Workload) Example {
	e := Example{
		Source: shown(identityOf(r.Names)), Port: r.DestPort, TCP: r.TCP, Method: shown(r.Method), Host: shown(r.Host),
		Path: shown(withoutQuery(r.Path)), Workload: shown(workloadName(w)),
	}
	if r.SourceIP.IsValid() {
		e.SourceIP = r.SourceIP.String()
	}
	return e
}

// identityOf is the name the peer is known by: its SPIFFE ID, else its first name.
func identityOf(names []string) string {
	for _, n := range names {
		if strings.HasPrefix(n, "spiffe://") {
			return n
		}
	}
	if len(names) > 0 {
		return names[0]
	}
	return ""
}

// workloadName is how a workload is called in examples.
func workloadName(w *policy.Workload) string {
	switch {
	case w == nil || w.Namespace == "":
		return ""
	case w.Name != "":
		return w.Namespace + "/" + w.Name
	case w.Labels["app"] != "":
		return w.Namespace + "/" + w.Labels["app"]
	case w.ServiceAccount != "":
		return w.Namespace + "/" + w.ServiceAccount
	}
	return w.Namespace
}

func withoutQuery(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		return path[:i]
	}
	return path
}

// tokenShape finds what may be a token: base64url that begins as every JSON object does, with its further segments.
var tokenShape = regexp.MustCompile(`\be[wy][A-Za-z0-9_-]{10,}(\.[A-Za-z0-9_-]*)*`)

// shown copies a value, cut to a bound and without what may be a token.
func shown(s string) string {
	cut := len(s) > maxExampleText
	if cut {
		end := maxExampleText
		for end > 0 && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end]
	}
	s = strings.ToValidUTF8(tokenShape.ReplaceAllString(s, "(token withheld)"), "\ufffd")
	if cut {
		s += "…"
	}
	return strings.Clone(s)
}
