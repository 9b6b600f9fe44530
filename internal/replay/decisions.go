package replay

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// cutMark ends a value that the decision log cut.
const cutMark = "…"

// decisionLayout is what lines of the decision log hold of headers.
func decisionLayout() *layout { return &layout{headers: []string{"x-request-id"}} }

// readDecision reads one line of the decision log. The log holds no headers, no queries, of tokens only whose they are,
// and no metadata.
func (r *record) readDecision(line string, l *layout) error {
	r.reset(l)
	r.shape.lacks = lacksDestinationIP | lacksQuery | lacksHeaders | lacksMetadata | lacksClaims
	r.parse = parseLoggedWorkload
	var layer, reason string
	err := members(line, func(key, value string) error {
		switch key {
		case "layer":
			layer, _ = unquote(value)
		case "reason":
			reason, _ = unquote(value)
		default:
			r.decisionField(key, value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if r.decisionID == "" || layer == "" {
		return errNotDecision
	}
	q := &r.request
	if !q.RemoteIP.IsValid() { // it is written where it differs
		q.RemoteIP = q.SourceIP
	}
	if r.requestID != "" {
		q.Headers = append(q.Headers, policy.Header{Name: "x-request-id", Value: r.requestID})
	}
	r.settle(authz.Layer(layer), authz.Reason(reason))
	return nil
}

// settle notes how far the request came when it was decided: what its line says of its token depends on that.
func (r *record) settle(layer authz.Layer, reason authz.Reason) {
	d := authz.Decision{Layer: layer, Reason: reason}
	r.settled = settled(&d)
	switch layer {
	case authz.LayerDeny, authz.LayerAllow, authz.LayerDefault:
		if r.token == tokenUnknown { // a token would be named
			r.token = tokenNone
		}
	case authz.LayerJWT:
		r.token = tokenRefused
	default:
		r.token = tokenUnknown
	}
}

func (r *record) decisionField(key, value string) {
	q := &r.request
	switch key {
	case "time":
		r.time, _ = unquote(value)
	case "decision_id":
		r.decisionID, _ = unquote(value)
	case "request_id":
		if r.text(&r.requestID, value, 0) {
			r.shape.missing |= 1
			r.requestID = ""
		}
	case "decision":
		r.decision, _ = unquote(value)
	case "status":
		r.status, _ = strconv.Atoi(value)
	case "workload":
		r.workload = value
	case "source":
		var name string
		if !r.text(&name, value, lacksIdentity) {
			q.Names = append(q.Names, name)
		}
	case "source_ip":
		q.SourceIP = address(value)
	case "remote_ip":
		q.RemoteIP = address(value)
	case "port":
		port, _ := strconv.ParseUint(value, 10, 16)
		q.DestPort = uint16(port)
	case "sni":
		r.text(&q.SNI, value, lacksSNI)
	case "tcp":
		q.TCP = value == "true"
	case "method":
		r.text(&q.Method, value, lacksMethod)
		q.HasMethod = q.Method != ""
	case "host":
		r.text(&q.Host, value, lacksHost)
		q.HasHost = q.Host != ""
	case "path":
		r.text(&q.Path, value, lacksPath)
		q.RawPath = q.Path
	case "token":
		r.readToken(value)
	case "custom":
		r.readAsked(value)
	}
}

// text reads a value. One that was cut is not known; it reports so and notes what is lacking.
func (r *record) text(into *string, value string, lacks attributes) (cut bool) {
	*into, _ = unquote(value)
	if strings.HasSuffix(*into, cutMark) {
		r.shape.lacks |= lacks
		return true
	}
	return false
}

func address(value string) netip.Addr {
	text, _ := unquote(value)
	a, _ := netip.ParseAddr(text)
	return a
}

// readToken reads what the log says of a token.
func (r *record) readToken(text string) {
	var result, principal string
	_ = members(text, func(key, value string) error {
		switch key {
		case "result":
			result, _ = unquote(value)
		case "issuer":
			r.claims.issuer, _ = unquote(value)
		case "request_principal":
			principal, _ = unquote(value)
		}
		return nil
	})
	r.token = tokenRefused
	if result == "valid" || result == "proxy" {
		r.token = tokenValid
	}
	if subject, ok := strings.CutPrefix(principal, r.claims.issuer+"/"); ok && !strings.HasSuffix(principal, cutMark) {
		r.claims.subject = subject
	}
}

// readAsked reads what providers answered.
func (r *record) readAsked(text string) {
	_ = elements(text, func(value string) error {
		var a askedProvider
		err := members(value, func(key, value string) error {
			switch key {
			case "provider":
				a.name, _ = unquote(value)
			case "outcome":
				outcome, _ := unquote(value)
				a.outcome = authz.Reason(outcome)
			case "failed_open":
				a.open = value == "true"
			}
			return nil
		})
		r.asked = append(r.asked, a)
		return err
	})
}

// maxLoggedLabels is how many labels the decision log writes; there may have been more.
const maxLoggedLabels = 32

// parseLoggedWorkload reads the workload of a line. Without labels in it they are not known: it may have none, or nobody
// asked for them.
func parseLoggedWorkload(text string) (*policy.Workload, error) {
	var w policy.Workload
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return nil, err
	}
	if len(w.Labels) >= maxLoggedLabels {
		w.Labels = nil
	}
	return &w, nil
}
