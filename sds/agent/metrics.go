package agent

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics counts what an agent does. Give [Metrics.Observe] to [Config.Observe].
type Metrics struct {
	registry *prometheus.Registry
	attempts *prometheus.CounterVec
	duration prometheus.Histogram
}

// NewMetrics returns metrics of an agent that has done nothing yet. The arguments say which build is running.
func NewMetrics(version, revision, goVersion string) *Metrics {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "writ_build_info", Help: "Always 1; the labels say which build is running.",
	}, []string{"version", "revision", "go"})
	info.WithLabelValues(version, revision, goVersion).Set(1)
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "writ_agent_attempts_total", Help: "Attempts at a certificate, by outcome.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "writ_agent_attempt_duration_seconds", Help: "Time of an attempt at a certificate, all authorities that were tried included.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info,
		m.attempts, m.duration)
	for _, outcome := range Outcomes() {
		m.attempts.WithLabelValues(string(outcome))
	}
	return m
}

// Observe counts one attempt.
func (m *Metrics) Observe(e Event) {
	m.attempts.WithLabelValues(string(e.Outcome)).Inc()
	m.duration.Observe(e.Took.Seconds())
}

// Handler serves the metrics in the Prometheus text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Registry is where what runs beside the agent registers its metrics.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// Watch adds what is read from the agent when it is asked for.
func (m *Metrics) Watch(a *Agent) {
	registry := m.registry
	gauge := func(name, help string, read func(s *Status) float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			s := a.Status()
			return read(&s)
		}))
	}
	gauge("writ_agent_certificate_expiry_timestamp_seconds", "When the agent's own certificate ends, -1 if it has none.", func(s *Status) float64 {
		return unixSeconds(s.Own.NotAfter)
	})
	gauge("writ_agent_first_expiry_timestamp_seconds", "When the first certificate of all ends, -1 if one is missing.", func(s *Status) float64 {
		first := s.Own.NotAfter
		for _, one := range s.Identities {
			if one.NotAfter.Before(first) {
				first = one.NotAfter
			}
		}
		return unixSeconds(first)
	})
	gauge("writ_agent_bundle_version", "Version of the bundle in force, 0 if it has none.", func(s *Status) float64 {
		if s.Bundle == nil {
			return 0
		}
		return float64(s.Bundle.Version)
	})
	gauge("writ_agent_bundle_followed", "1 while an authority's stream delivers the bundle.", func(s *Status) float64 {
		if s.Bundle == nil || !s.Bundle.Followed {
			return 0
		}
		return 1
	})
	gauge("writ_agent_state_problems", "What is wrong with the state: 0 is nothing.", func(s *Status) float64 { return float64(len(s.Problems)) })
	registry.MustRegister(&identities{a, prometheus.NewDesc("writ_agent_identities",
		"Identities by alarm: late is a quarter of the life left (or as configured), critical a quarter of that, lost is ended or never had.", []string{"alarm"}, nil)})
}

// identities counts the identities by how near they are to being lost.
type identities struct {
	agent *Agent
	desc  *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (i *identities) Describe(to chan<- *prometheus.Desc) { to <- i.desc }

// Collect implements [prometheus.Collector].
func (i *identities) Collect(to chan<- prometheus.Metric) {
	counts := map[string]int{}
	s := i.agent.Status()
	counts[s.Own.Alarm]++
	for _, one := range s.Identities {
		if !one.Shared {
			counts[one.Alarm]++
		}
	}
	for _, level := range []alarmLevel{calm, late, critical, lost} {
		to <- prometheus.MustNewConstMetric(i.desc, prometheus.GaugeValue, float64(counts[level.String()]), level.String())
	}
}

func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return -1
	}
	return float64(t.Unix())
}
