package main

import (
	"github.com/prometheus/client_golang/prometheus"

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
