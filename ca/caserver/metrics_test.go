package caserver_test

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/writ-auth/writ/ca/caserver"
)

// TestMetrics counts what dashboards of istiod's CA read, under the names that they read it by.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	var metrics *caserver.Metrics
	b := newBench(t, options{server: func(c *caserver.Config) {
		inner := c.Observe
		c.Observe = func(o *caserver.Observation) {
			inner(o)
			metrics.Observe(o)
		}
	}})
	metrics = caserver.NewMetrics(registry, b.authority, b.server)
	before := len(series(t, registry))
	for _, c := range []call{
		{bearer: b.orderToken(t)}, {bearer: b.orderToken(t), seconds: 1 << 40}, {}, {bearer: b.orderToken(t), csr: "x"},
		{bearer: b.orderToken(t), metadata: map[string]any{"ImpersonatedIdentity": payment}},
	} {
		_, _ = b.do(t, c)
	}
	got := series(t, registry)
	if len(got) != before {
		t.Errorf("%d series before the calls, %d after: labels are not bounded", before, len(got))
	}
	for name, want := range map[string]float64{
		"citadel_server_csr_count":                    5,
		"citadel_server_success_cert_issuance_count":  2,
		"citadel_server_authentication_failure_count": 1,
		"citadel_server_csr_parsing_err_count":        1,
		"citadel_server_id_extraction_err_count":      1,
		"writ_ca_requests_total oidc issued":          2,
		"writ_ca_requests_total none unauthenticated": 1,
		"writ_ca_refusals_total no_credentials":       1,
		"writ_ca_refusals_total csr_framing":          1,
		"writ_ca_refusals_total not_granted":          1,
		"writ_ca_issued_total default":                1,
		"writ_ca_issued_total max":                    1,
		"citadel_server_root_cert_expiry_timestamp":   float64(b.authority.Status().Roots[0].Certificate.NotAfter.Unix()),
		"citadel_server_cert_chain_expiry_timestamp":  float64(b.authority.Status().Signer.NotAfter.Unix()),
	} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v", name, got[name], want)
		}
	}
	if left := got["citadel_server_root_cert_expiry_seconds"]; left < (9 * 365 * 24 * time.Hour).Seconds() {
		t.Errorf("the root ends in %v s", left)
	}
}

// series are the values of all counters and gauges, by name and labels.
func series(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

func TestMetricsWithoutABundle(t *testing.T) {
	b := newBench(t, options{})
	registry := prometheus.NewPedanticRegistry()
	caserver.NewMetrics(registry, nothing{}, b.server)
	for name, value := range series(t, registry) {
		if strings.HasSuffix(name, "_timestamp") && value != -1 {
			t.Errorf("%s = %v without a certificate", name, value)
		}
	}
}
