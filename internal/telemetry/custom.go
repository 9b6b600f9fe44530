package telemetry

import (
	"strconv"
	"time"

	"github.com/writ-auth/writ/authz"
)

// unknownProvider stands for every name that policies use and no provider has. It is no DNS label, so that no provider
// can have it.
const unknownProvider = "_unknown"

// CustomSource is a provider whose state is exported.
type CustomSource struct {
	Name     string
	InFlight func() int
	// Ready says whether it has policies to answer by, and Failing whether the last attempt to renew them failed; both
	// are nil for one that is somewhere else.
	Ready, Failing func() bool
	// IdentityEnds is when writ's own certificate for it ends, zero while there is none that is good; nil for one that needs none.
	IdentityEnds func() time.Time
}

// observeCustom counts what providers were asked. It neither allocates nor locks.
func (m *Metrics) observeCustom(d *authz.Decision) {
	for i := range d.Asked {
		a := &d.Asked[i]
		name := a.Provider
		unknown := a.Outcome == authz.ReasonProviderUnknown
		if unknown {
			name = unknownProvider
		}
		p := m.custom[name]
		if p == nil {
			continue
		}
		if n := p.outcomes[a.Outcome]; n != nil {
			n.Inc()
		}
		if unknown { // nobody was asked
			continue
		}
		p.duration.Observe(a.Took.Seconds())
		if a.Open {
			p.open.Inc()
		}
		if a.Refused > 0 {
			p.refused.Add(float64(a.Refused))
		}
	}
}

// ObserveShadow counts what a provider says for a CUSTOM policy under dry run.
func (m *Metrics) ObserveShadow(a *authz.ShadowAnswer) {
	name := a.Rule.Policy.Provider
	if a.Outcome == authz.ReasonProviderUnknown {
		name = unknownProvider
	}
	if p := m.custom[name]; p != nil && p.shadows[a.Outcome] != nil {
		p.shadows[a.Outcome].Inc()
	}
}

// ObserveShadow queues a line of its own for a CUSTOM policy under dry run: the decision was logged before its answer came.
// Where only denials are logged, an answer that allows is left out.
func (l *DecisionLog) ObserveShadow(at time.Time, a *authz.ShadowAnswer) {
	if l.config.Log == LogOff || l.config.Log == LogDenials && a.Outcome == authz.ReasonProviderAllowed {
		return
	}
	line := l.buffers.Get().(*[]byte)
	b := append((*line)[:0], `{"time":"`...)
	b = at.UTC().AppendFormat(b, time.RFC3339Nano)
	b = a.ID.Append(append(b, `","decision_id":"`...))
	b = appendEscaped(append(b, `","shadow_custom":{"provider":"`...), a.Rule.Policy.Provider)
	b = append(appendRuleName(append(b, `","rule":"`...), a.Rule), '"')
	b = appendString(b, "outcome", string(a.Outcome))
	b = append(b, `,"duration_us":`...)
	b = strconv.AppendFloat(b, float64(a.Took)/float64(time.Microsecond), 'f', 1, 64)
	b = append(b, '}')
	*line = append(appendString(b, "detail", a.Detail), '}', '\n')
	l.enqueue(line)
}

// appendCustom writes what providers were asked, in their order.
func appendCustom(b []byte, d *authz.Decision) []byte {
	if len(d.Asked) == 0 {
		return b
	}
	b = append(b, `,"custom":[`...)
	for i := range d.Asked {
		a := &d.Asked[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = appendEscaped(append(b, `{"provider":"`...), a.Provider)
		b = append(b, '"')
		if a.Rule != nil {
			b = append(appendRuleName(append(b, `,"rule":"`...), a.Rule), '"')
		}
		b = appendString(b, "outcome", string(a.Outcome))
		if a.Open {
			b = append(b, `,"failed_open":true`...)
		}
		if a.Refused > 0 {
			b = appendInt(b, "refused_changes", int64(a.Refused))
		}
		b = append(b, `,"duration_us":`...)
		b = strconv.AppendFloat(b, float64(a.Took)/float64(time.Microsecond), 'f', 1, 64)
		b = append(b, '}')
	}
	return append(b, ']')
}
