package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/ca"
)

// alarmCollector shows the alarms of the certificate authority: 1 while one is up.
type alarmCollector struct {
	desc   *prometheus.Desc
	status func() ca.Status
}

func registerAlarms(registry prometheus.Registerer, status func() ca.Status) error {
	return registry.Register(&alarmCollector{
		desc:   prometheus.NewDesc("writ_ca_alarm", "Conditions that somebody has to look at: 1 while one holds.", []string{"code"}, nil),
		status: status,
	})
}

// Describe implements [prometheus.Collector].
func (c *alarmCollector) Describe(to chan<- *prometheus.Desc) { to <- c.desc }

// Collect implements [prometheus.Collector].
func (c *alarmCollector) Collect(to chan<- prometheus.Metric) {
	up := map[ca.AlarmCode]float64{
		ca.AlarmState: 0, ca.AlarmClock: 0, ca.AlarmRenewal: 0, ca.AlarmSignerEnds: 0, ca.AlarmRootEnds: 0, ca.AlarmLifetimeCut: 0,
		ca.AlarmSelfCheck: 0, ca.AlarmReload: 0, ca.AlarmCRL: 0, ca.AlarmLedger: 0, ca.AlarmBundle: 0,
	}
	for _, a := range c.status().Alarms {
		up[a.Code] = 1
	}
	for code, value := range up {
		to <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, value, string(code))
	}
}

// overloadCollector shows how many checks are at work and how many were turned away.
type overloadCollector struct {
	limiter                         *extauthz.Limiter
	shed, atWork, limit, overloaded *prometheus.Desc
}

func registerOverload(registry prometheus.Registerer, l *extauthz.Limiter) error {
	return registry.Register(&overloadCollector{
		limiter:    l,
		shed:       prometheus.NewDesc("writ_check_shed_total", "Checks turned away unread under overload; not part of writ_check_total.", nil, nil),
		atWork:     prometheus.NewDesc("writ_check_at_work", "Checks at work, without those that wait for remote providers or for keys.", nil, nil),
		limit:      prometheus.NewDesc("writ_check_limit", "Checks that may be at work; under overload as many as can be answered within the target.", nil, nil),
		overloaded: prometheus.NewDesc("writ_check_overloaded", "1 while checks are being turned away.", nil, nil),
	})
}

// Describe implements [prometheus.Collector].
func (c *overloadCollector) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{c.shed, c.atWork, c.limit, c.overloaded} {
		to <- desc
	}
}

// Collect implements [prometheus.Collector].
func (c *overloadCollector) Collect(to chan<- prometheus.Metric) {
	s := c.limiter.Status()
	overloaded := 0.0
	if s.Overloaded {
		overloaded = 1
	}
	to <- prometheus.MustNewConstMetric(c.shed, prometheus.CounterValue, float64(s.Shed))
	to <- prometheus.MustNewConstMetric(c.atWork, prometheus.GaugeValue, float64(s.AtWork))
	to <- prometheus.MustNewConstMetric(c.limit, prometheus.GaugeValue, float64(s.Limit))
	to <- prometheus.MustNewConstMetric(c.overloaded, prometheus.GaugeValue, overloaded)
}
