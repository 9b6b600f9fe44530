package caserver

import (
	"crypto/x509"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
)

// Metrics counts calls. Give [Metrics.Observe] to [Config.Observe], or call it from there. The names that begin with
// citadel_server_ are istiod's, for dashboards that read them.
type Metrics struct {
	calls    *prometheus.CounterVec
	refusals *prometheus.CounterVec
	duration prometheus.Histogram
	lifetime *prometheus.CounterVec

	requests, authentication, parsing, extraction, success prometheus.Counter
	signing                                                *prometheus.CounterVec
}

// NewMetrics registers the metrics of a server and its authority.
func NewMetrics(registry prometheus.Registerer, authority interface{ Status() ca.Status }, s *Server) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	vector := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		calls:    vector("writ_ca_requests_total", "Calls for a certificate, by outcome and by how the caller proved who it is.", "outcome", "method"),
		refusals: vector("writ_ca_refusals_total", "Calls that got no certificate, by reason.", "reason"),
		lifetime: vector("writ_ca_issued_total", "Certificates issued, by the rule that set their lifetime.", "ttl_rule"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "writ_ca_request_duration_seconds", Help: "Time from a call for a certificate to its answer, without the network.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		requests:       counter("citadel_server_csr_count", "The number of CSRs received by Citadel server."),
		authentication: counter("citadel_server_authentication_failure_count", "The number of authentication failures."),
		parsing:        counter("citadel_server_csr_parsing_err_count", "The number of errors occurred when parsing the CSR."),
		extraction:     counter("citadel_server_id_extraction_err_count", "The number of errors occurred when extracting the ID from CSR."),
		success:        counter("citadel_server_success_cert_issuance_count", "The number of certificates issuances that have succeeded."),
		signing:        vector("citadel_server_csr_sign_err_count", "The number of errors occurred when signing the CSR.", "error"),
	}
	registry.MustRegister(m.calls, m.refusals, m.lifetime, m.duration, m.requests, m.authentication, m.parsing, m.extraction,
		m.success, m.signing)
	m.fill()
	gauge := func(name, help string, read func() float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
	}
	gauge("writ_ca_requests_in_flight", "Calls for a certificate at work.", func() float64 { return float64(s.InFlight()) })
	for _, outcome := range Outcomes() {
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "writ_ca_jwt_svids_total", Help: "Calls for a JWT-SVID, by outcome.", ConstLabels: prometheus.Labels{"outcome": string(outcome)},
		}, func() float64 { return float64(s.Minted(outcome)) }))
	}
	gauge("citadel_server_root_cert_expiry_timestamp", "The unix timestamp, in seconds, when Citadel root cert will expire.",
		func() float64 { return unixSeconds(firstRoot(authority.Status())) })
	gauge("citadel_server_cert_chain_expiry_timestamp", "The unix timestamp, in seconds, when Citadel cert chain will expire.",
		func() float64 { return unixSeconds(authority.Status().Signer) })
	gauge("citadel_server_root_cert_expiry_seconds", "The time remaining, in seconds, before the root certificate will expire.",
		func() float64 { return secondsLeft(firstRoot(authority.Status())) })
	gauge("citadel_server_cert_chain_expiry_seconds", "The time remaining, in seconds, before the certificate chain will expire.",
		func() float64 { return secondsLeft(authority.Status().Signer) })
	return m
}

// fill makes the series of all labels, so that a rate is known from the first event on.
func (m *Metrics) fill() {
	for _, outcome := range Outcomes() {
		for _, method := range append(attest.Methods(), methodNone) {
			m.calls.WithLabelValues(string(outcome), string(method))
		}
	}
	for _, reason := range refusalReasons() {
		m.refusals.WithLabelValues(reason)
	}
	for _, rule := range []string{ca.TTLRequested, ca.TTLDefault, ca.TTLMin, ca.TTLMax, ca.TTLIssuer} {
		m.lifetime.WithLabelValues(rule)
	}
}

// methodNone labels calls of nobody in particular.
const methodNone attest.Method = "none"

// refusalReasons are all values of [Observation.Reason], and of the outcomes that have none.
func refusalReasons() []string {
	all := []string{"metadata", "identity", "revoked", "self_check"}
	for _, r := range attest.Reasons() {
		all = append(all, string(r))
	}
	for _, r := range ca.Reasons() {
		all = append(all, "csr_"+string(r))
	}
	for _, o := range Outcomes() {
		if o != Issued {
			all = append(all, string(o))
		}
	}
	return all
}

// Observe counts one call.
func (m *Metrics) Observe(o *Observation) {
	method := methodNone
	if o.Caller != nil {
		method = o.Caller.Method
	}
	m.calls.WithLabelValues(string(o.Outcome), string(method)).Inc()
	m.duration.Observe(o.Duration.Seconds())
	m.requests.Inc()
	if o.Outcome == Issued {
		m.success.Inc()
		m.lifetime.WithLabelValues(o.Issued.TTLRule).Inc()
		return
	}
	m.refusals.WithLabelValues(refusalReason(o)).Inc()
	switch {
	case o.Caller == nil && o.Outcome == Unauthenticated:
		m.authentication.Inc()
	case o.Outcome == BadRequest || o.Outcome == UnknownSigner:
		m.parsing.Inc()
	case o.Outcome == Denied:
		m.extraction.Inc()
	case o.Outcome == Failed || o.Outcome == NotReady || o.Outcome == TimedOut:
		m.signing.WithLabelValues(string(o.Outcome)).Inc()
	}
}

func refusalReason(o *Observation) string {
	switch {
	case o.Reason == "":
		return string(o.Outcome)
	case o.Outcome == BadRequest && o.Reason != "metadata":
		return "csr_" + o.Reason
	default:
		return o.Reason
	}
}

// firstRoot is the trust anchor that ends first.
func firstRoot(s ca.Status) *x509.Certificate {
	if s.Bundle == nil {
		return nil
	}
	var first *x509.Certificate
	for _, r := range s.Bundle.Roots {
		if first == nil || r.Certificate.NotAfter.Before(first.NotAfter) {
			first = r.Certificate
		}
	}
	return first
}

// unixSeconds is when a certificate ends, -1 if there is none.
func unixSeconds(c *x509.Certificate) float64 {
	if c == nil {
		return -1
	}
	return float64(c.NotAfter.Unix())
}

func secondsLeft(c *x509.Certificate) float64 {
	if c == nil {
		return -1
	}
	return time.Until(c.NotAfter).Seconds()
}
