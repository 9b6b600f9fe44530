package sds

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics tells what a server holds and has done. It is a [prometheus.Collector] to register once.
type Metrics struct {
	server *Server

	streams, waiting, rejected, secrets, notAfter *prometheus.Desc
	pushes, acks, nacks, refused                  *prometheus.Desc
}

// NewMetrics registers the metrics of a server.
func NewMetrics(registry prometheus.Registerer, s *Server) *Metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	m := &Metrics{
		server:   s,
		streams:  desc("writ_sds_streams", "Open SDS streams, by protocol.", "protocol"),
		waiting:  desc("writ_sds_waiting", "Secrets on open streams that cannot be sent yet."),
		rejected: desc("writ_sds_rejected", "Secrets on open streams whose present version the proxy rejected."),
		secrets:  desc("writ_sds_secrets", "Secrets that there are, by kind.", "kind"),
		notAfter: desc("writ_sds_secret_not_after_seconds", "When the first certificate or CRL of a kind of secret ends, in Unix time.", "kind"),
		pushes:   desc("writ_sds_pushes_total", "Secrets sent, by kind.", "kind"),
		acks:     desc("writ_sds_acks_total", "Secrets that proxies acknowledged, by kind.", "kind"),
		nacks:    desc("writ_sds_nacks_total", "Secrets that proxies rejected, by kind.", "kind"),
		refused:  desc("writ_sds_refused_total", "Streams and secrets refused, by reason.", "reason"),
	}
	registry.MustRegister(m)
	return m
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.streams, m.waiting, m.rejected, m.secrets, m.notAfter, m.pushes, m.acks, m.nacks, m.refused} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	counter := func(d *prometheus.Desc, n *atomic.Int64, label string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n.Load()), label)
	}
	t := m.server.totals()
	gauge(m.streams, float64(t.sotw), "sotw")
	gauge(m.streams, float64(t.delta), "delta")
	gauge(m.waiting, float64(t.waiting))
	gauge(m.rejected, float64(t.rejected))
	held := m.server.cfg.Vault.load().totals()
	for _, kind := range Kinds() {
		n := kind.order()
		gauge(m.secrets, float64(held[n].count), string(kind))
		if end := held[n].notAfter; !end.IsZero() {
			gauge(m.notAfter, float64(end.UnixNano())/float64(time.Second), string(kind))
		}
		counter(m.pushes, &m.server.counts.pushes[n], string(kind))
		counter(m.acks, &m.server.counts.acks[n], string(kind))
		counter(m.nacks, &m.server.counts.nacks[n], string(kind))
	}
	for _, reason := range Reasons() {
		counter(m.refused, m.server.counts.refused[reason], string(reason))
	}
}

type streamTotals struct{ sotw, delta, waiting, rejected int }

func (s *Server) totals() (t streamTotals) {
	for _, st := range s.all() {
		if st.delta {
			t.delta++
		} else {
			t.sotw++
		}
		st.mu.Lock()
		for n := range st.subs {
			if st.subs[n].wait != "" {
				t.waiting++
			}
			if st.subs[n].rejected != nil {
				t.rejected++
			}
		}
		st.mu.Unlock()
	}
	return t
}

type kindTotals struct {
	count    int
	notAfter time.Time
}

func (c *contents) totals() (t [4]kindTotals) {
	add := func(s *secret) {
		n := s.kind.order()
		t[n].count++
		t[n].notAfter = earliest(t[n].notAfter, s.notAfter)
	}
	for _, i := range c.identities {
		add(i.secret)
	}
	for _, b := range c.bundles {
		add(b.roots)
		add(b.document)
	}
	if c.validator != nil {
		add(c.validator)
	}
	return t
}
