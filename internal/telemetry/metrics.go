package telemetry

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/jwt"
)

// Metrics are the authority's metrics, in a registry of their own. docs/metrics.md lists them.
type Metrics struct {
	registry *prometheus.Registry

	checks   map[checkLabels]prometheus.Counter // read-only once built: all label values are known
	other    prometheus.Counter
	duration prometheus.Histogram
	audits   prometheus.Counter
	shadows  map[shadowLabels]prometheus.Counter

	tokens tokenMetrics
	custom map[string]*customMetrics // by provider; read-only once built

	documents     *prometheus.GaugeVec
	problems      *prometheus.GaugeVec
	loads         *prometheus.CounterVec
	loadFailed    prometheus.Gauge
	generation    prometheus.Gauge
	loadTimestamp prometheus.Gauge
}

// customMetrics count what one provider was asked.
type customMetrics struct {
	outcomes      map[authz.Reason]prometheus.Counter
	shadows       map[authz.Reason]prometheus.Counter
	open, refused prometheus.Counter
	duration      prometheus.Observer
}

// tokenMetrics count what became of the tokens of requests, and the fetches of keys for them.
type tokenMetrics struct {
	verifying     bool                              // tokens are verified here
	results       map[jwt.Reason]prometheus.Counter // read-only once built
	none          prometheus.Counter                // of the results
	verified      prometheus.Counter
	cached        prometheus.Counter
	embedded      prometheus.Counter
	fetches       *prometheus.CounterVec
	fetchDuration prometheus.Histogram
	refetches     *prometheus.CounterVec
}

type checkLabels struct {
	allow  bool
	layer  authz.Layer
	reason authz.Reason
}

type shadowLabels struct {
	deny    bool // the DENY policies under dry run, else the ALLOW ones
	matched bool
}

// Build names the running binary.
type Build struct{ Version, Revision, Go string }

// NewMetrics returns metrics of a process that has decided nothing yet.
func NewMetrics(b Build) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := m.gaugeVec("writ_build_info", "Always 1; the labels say which build is running.", "version", "revision", "go")
	info.WithLabelValues(b.Version, b.Revision, b.Go).Set(1)
	m.newCheckMetrics()
	m.newTokenMetrics()
	m.newPolicyMetrics()
	return m
}

func (m *Metrics) newCheckMetrics() {
	total := m.counterVec("writ_check_total", "Checks answered, by decision, deciding layer and reason.", "decision", "layer", "reason")
	m.checks = make(map[checkLabels]prometheus.Counter)
	for _, k := range knownChecks() {
		m.checks[k] = total.WithLabelValues(decisionWord(k.allow), string(k.layer), string(k.reason))
	}
	m.other = total.WithLabelValues("deny", "other", "other")
	m.duration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "writ_check_duration_seconds",
		Help: "Time from a decoded check to its decision, without the network.",
		Buckets: []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2,
			5e-2, 1e-1},
	})
	m.registry.MustRegister(m.duration)
	m.audits = m.counter("writ_audit_total", "Checks that an AUDIT rule matched.")
	shadow := m.counterVec("writ_shadow_total", "What dry-run policies would have said, by their action.", "action", "result")
	m.shadows = make(map[shadowLabels]prometheus.Counter)
	for _, matched := range []bool{true, false} {
		result := map[bool]string{true: "matched", false: "not_matched"}[matched]
		m.shadows[shadowLabels{true, matched}] = shadow.WithLabelValues("deny", result)
		m.shadows[shadowLabels{false, matched}] = shadow.WithLabelValues("allow", result)
	}
}

func (m *Metrics) newTokenMetrics() {
	t := &m.tokens
	results := m.counterVec("writ_token_total",
		"Requests to workloads with token rules, by what became of the token: valid, none, or the reason it was refused for.", "result")
	t.results = make(map[jwt.Reason]prometheus.Counter)
	for _, reason := range append(jwt.Reasons(), jwt.Valid) {
		t.results[reason] = results.WithLabelValues(reason.String())
	}
	t.none = results.WithLabelValues("none")
	t.verified = m.counter("writ_token_verified_total", "Signatures of tokens computed.")
	t.cached = m.counter("writ_token_cache_hits_total", "Tokens found in the cache of verified ones.")
	t.embedded = m.counter("writ_token_embedded_key_total",
		"Requests with a token whose header offers a key of its own (jwk, jku, x5u, x5c); it is never looked at.")
	t.fetches = m.counterVec("writ_jwks_fetch_total", "Fetches of keys, retries included, by result.", "result")
	for _, result := range fetchResults() {
		t.fetches.WithLabelValues(string(result))
	}
	t.fetchDuration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "writ_jwks_fetch_duration_seconds", Help: "Time of a fetch of keys, retries included.",
		Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
	})
	m.registry.MustRegister(t.fetchDuration)
	t.refetches = m.counterVec("writ_jwks_refetch_total",
		"Tokens that asked for newer keys because of an unknown kid, by what came of it.", "outcome")
	for _, outcome := range refetchOutcomes() {
		t.refetches.WithLabelValues(string(outcome))
	}
}

func (m *Metrics) newPolicyMetrics() {
	m.documents = m.gaugeVec("writ_policy_documents",
		"Documents by kind and state: active, last_good, fail_closed, ignored.", "kind", "state")
	m.problems = m.gaugeVec("writ_policy_problems", "Problems of the loaded documents, by severity.", "severity")
	m.loads = m.counterVec("writ_policy_load_total", "Attempts to load the documents, by result.", "result")
	m.loadFailed = m.gauge("writ_policy_load_failed",
		"1 while the documents cannot be read or one of them is broken, so that not all is enforced as written.")
	m.generation = m.gauge("writ_policy_generation", "Generation of the snapshot in force; 0 before the first.")
	m.loadTimestamp = m.gauge("writ_policy_load_timestamp_seconds", "Unix time of the snapshot in force.")
	for _, result := range []string{"ok", "degraded", "failed"} {
		m.loads.WithLabelValues(result)
	}
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) gaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	m.registry.MustRegister(g)
	return g
}

// knownChecks are the combinations of labels that decisions have, so that no check creates a time series.
func knownChecks() []checkLabels {
	known := []checkLabels{
		{true, authz.LayerAllow, authz.ReasonAllowed},
		{true, authz.LayerDefault, authz.ReasonNoAllowPolicy},
		{false, authz.LayerJWT, authz.ReasonTokenRefused},
		{false, authz.LayerDeny, authz.ReasonDenied},
		{false, authz.LayerAllow, authz.ReasonNoAllowMatch},
		{false, authz.LayerRevoked, authz.ReasonRevoked},
		{false, authz.LayerDeny, authz.ReasonBrokenPolicy},
		{false, authz.LayerCustom, authz.ReasonBrokenPolicy},
		{false, authz.LayerAllow, authz.ReasonBrokenPolicy},
		{false, authz.LayerMTLS, authz.ReasonPlaintextRefused},
		{false, authz.LayerMTLS, authz.ReasonBrokenPolicy},
	}
	for _, reason := range authz.ProviderReasons() {
		if reason != authz.ReasonProviderAllowed {
			known = append(known, checkLabels{false, authz.LayerCustom, reason})
		}
	}
	for _, reason := range []authz.Reason{
		authz.ReasonBrokenPolicy, authz.ReasonNoSnapshot, authz.ReasonUnknownWorkload, authz.ReasonUnknownLabels,
		authz.ReasonAmbiguousWorkload, authz.ReasonBadRequest, authz.ReasonPathNotNormalized, authz.ReasonInternal,
	} {
		known = append(known, checkLabels{false, authz.LayerSystem, reason})
	}
	return known
}

func decisionWord(allow bool) string {
	if allow {
		return "allow"
	}
	return "deny"
}

// ObserveCheck counts one check. It neither allocates nor locks.
func (m *Metrics) ObserveCheck(c *Check) {
	d := c.Decision
	if counter, ok := m.checks[checkLabels{d.Allow, d.Layer, d.Reason}]; ok {
		counter.Inc()
	} else {
		m.other.Inc()
	}
	m.duration.Observe(c.Duration.Seconds())
	m.tokens.observe(c)
	m.observeCustom(d)
	if !d.Evaluated {
		return
	}
	if d.Verdict.Audit != nil {
		m.audits.Inc()
	}
	if d.Verdict.HasShadowDeny {
		m.shadows[shadowLabels{true, d.Verdict.ShadowDeny != nil}].Inc()
	}
	if d.Verdict.HasShadowAllow {
		m.shadows[shadowLabels{false, d.Verdict.ShadowAllow != nil}].Inc()
	}
}

// Load is the outcome of one attempt to load the documents.
type Load struct {
	Result     string    // ok, degraded (some document is broken) or failed (nothing could be read)
	Published  bool      // a snapshot came of it; else only Result is used
	Time       time.Time // of the snapshot
	Generation uint64
	Documents  map[DocumentLabels]int
	Problems   map[string]int // by severity
}

// DocumentLabels count documents.
type DocumentLabels struct{ Kind, State string }

// ObserveLoad records a load. It is called by one goroutine at a time.
func (m *Metrics) ObserveLoad(l Load) {
	m.loads.WithLabelValues(l.Result).Inc()
	m.loadFailed.Set(0)
	if l.Result != "ok" {
		m.loadFailed.Set(1)
	}
	if !l.Published {
		return
	}
	m.generation.Set(float64(l.Generation))
	m.loadTimestamp.Set(float64(l.Time.UnixMilli()) / 1e3)
	m.documents.Reset()
	for k, n := range l.Documents {
		m.documents.WithLabelValues(k.Kind, k.State).Set(float64(n))
	}
	for _, severity := range []string{"error", "warning", "info"} {
		m.problems.WithLabelValues(severity).Set(float64(l.Problems[severity]))
	}
}

// WatchDecisionLog exports the counters of a decision log.
func (m *Metrics) WatchDecisionLog(l *DecisionLog) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "writ_decision_log_dropped_total",
		Help: "Decision log lines lost because the destination was too slow or refused them.",
	}, func() float64 { return float64(l.Dropped()) }))
}

// WatchTokens has tokens counted, and exports what is held for verifying them: keys, and the cache if there is one. Call
// it before anything is observed.
func (m *Metrics) WatchTokens(sources *jwt.Sources, cache *jwt.Cache) {
	m.tokens.verifying = true
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	m.registry.MustRegister(&tokenCollector{
		sources: sources, cache: cache,
		entries: describe("writ_token_cache_entries", "Tokens in the cache of verified ones."),
		bytes:   describe("writ_token_cache_bytes", "About how much memory the tokens in the cache take, in bytes."),
		keys:    describe("writ_jwks_keys", "Usable keys in force, of all key sets that are fetched."),
		states: describe("writ_jwks_sources",
			"Key sets that are fetched, by state: fresh, stale (not renewed in time, still in force) or empty (no keys: tokens are refused).", "state"),
		oldest: describe("writ_jwks_oldest_age_seconds", "Time since the last good fetch of the key set in force that is oldest; 0 without one."),
	})
}

// tokenCollector reads what is held at the moment of a scrape.
type tokenCollector struct {
	sources                              *jwt.Sources
	cache                                *jwt.Cache // may be nil
	entries, bytes, keys, states, oldest *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (c *tokenCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.entries, c.bytes, c.keys, c.states, c.oldest} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *tokenCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	if c.cache != nil {
		gauge(c.entries, float64(c.cache.Len()))
		gauge(c.bytes, float64(c.cache.Bytes()))
	}
	states := map[string]int{}
	keys, oldest := 0, int64(0)
	for _, s := range c.sources.Status() {
		states[KeyState(&s)]++
		keys += s.Keys
		if s.Keys > 0 {
			oldest = max(oldest, s.AgeSeconds)
		}
	}
	gauge(c.keys, float64(keys))
	gauge(c.oldest, float64(oldest))
	for _, state := range []string{keysFresh, keysStale, keysEmpty} {
		gauge(c.states, float64(states[state]), state)
	}
}

// WatchCustom has questions to providers counted, and exports their state. Call it once, before anything is observed.
func (m *Metrics) WatchCustom(sources []CustomSource) {
	total := m.counterVec("writ_custom_total", "Questions to the providers of CUSTOM policies, by what became of them.", "provider", "outcome")
	open := m.counterVec("writ_custom_fail_open_total", "Requests that went on because a provider gave no answer and fails open.", "provider")
	shadows := m.counterVec("writ_custom_shadow_total", "What providers say for CUSTOM policies under dry run.", "provider", "outcome")
	refused := m.counterVec("writ_custom_refused_changes_total", "Headers that a provider wanted to change and may not.", "provider")
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "writ_custom_duration_seconds", Help: "Time from a question to a provider's answer.",
		Buckets: []float64{2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 1e-1, 2.5e-1, 5e-1, 1, 2.5, 5},
	}, []string{"provider"})
	m.registry.MustRegister(duration, newCustomCollector(sources))
	m.custom = map[string]*customMetrics{unknownProvider: {
		outcomes: map[authz.Reason]prometheus.Counter{authz.ReasonProviderUnknown: total.WithLabelValues(unknownProvider, string(authz.ReasonProviderUnknown))},
		shadows:  map[authz.Reason]prometheus.Counter{authz.ReasonProviderUnknown: shadows.WithLabelValues(unknownProvider, string(authz.ReasonProviderUnknown))},
	}}
	for _, s := range sources {
		p := &customMetrics{
			outcomes: map[authz.Reason]prometheus.Counter{}, shadows: map[authz.Reason]prometheus.Counter{}, open: open.WithLabelValues(s.Name), refused: refused.WithLabelValues(s.Name),
			duration: duration.WithLabelValues(s.Name),
		}
		for _, outcome := range authz.ProviderReasons() {
			p.outcomes[outcome] = total.WithLabelValues(s.Name, string(outcome))
			p.shadows[outcome] = shadows.WithLabelValues(s.Name, string(outcome))
		}
		m.custom[s.Name] = p
	}
}

// WatchShadows exports how many questions for CUSTOM policies under dry run were dropped.
func (m *Metrics) WatchShadows(s *authz.Shadows) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "writ_custom_shadow_dropped_total",
		Help: "Questions for CUSTOM policies under dry run that were not put because too many waited.",
	}, func() float64 { return float64(s.Dropped()) }))
}

// customCollector reads the state of providers at the moment of a scrape.
type customCollector struct {
	sources                            []CustomSource
	inFlight, ready, failing, identity *prometheus.Desc
}

func newCustomCollector(sources []CustomSource) *customCollector {
	describe := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"provider"}, nil)
	}
	return &customCollector{
		sources:  sources,
		inFlight: describe("writ_custom_in_flight", "Questions to a provider that are open."),
		ready:    describe("writ_custom_policies_ready", "1 if an OPA provider has policies to answer by; without them, whoever asks is denied."),
		failing:  describe("writ_custom_policies_load_failed", "1 while the policies of an OPA provider cannot be renewed; the last good ones stay in force."),
		identity: describe("writ_custom_identity_expiry_timestamp_seconds", "When writ's own certificate for a provider ends; 0 while it has none that is good, and the provider is not asked."),
	}
}

// Describe implements [prometheus.Collector].
func (c *customCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.inFlight, c.ready, c.failing, c.identity} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *customCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, name string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, name)
	}
	is := map[bool]float64{true: 1}
	for i := range c.sources {
		s := &c.sources[i]
		gauge(c.inFlight, float64(s.InFlight()), s.Name)
		if s.Ready != nil {
			gauge(c.ready, is[s.Ready()], s.Name)
			gauge(c.failing, is[s.Failing()], s.Name)
		}
		if s.IdentityEnds != nil {
			ends := 0.0
			if t := s.IdentityEnds(); !t.IsZero() {
				ends = float64(t.Unix())
			}
			gauge(c.identity, ends, s.Name)
		}
	}
}

// CheckCount is how often one combination of decision, layer and reason was answered.
type CheckCount struct {
	Decision string `json:"decision"`
	Layer    string `json:"layer"`
	Reason   string `json:"reason"`
	Count    uint64 `json:"count"`
}

// CheckCounts lists the checks answered so far, without those that never happened.
func (m *Metrics) CheckCounts() ([]CheckCount, error) {
	families, err := m.registry.Gather()
	if err != nil {
		return nil, err
	}
	counts := []CheckCount{}
	for _, f := range families {
		if f.GetName() != "writ_check_total" {
			continue
		}
		for _, metric := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if n := uint64(metric.GetCounter().GetValue()); n > 0 {
				counts = append(counts, CheckCount{labels["decision"], labels["layer"], labels["reason"], n})
			}
		}
	}
	return counts, nil
}

// Handler serves the metrics in the Prometheus text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Registry is where other packages of the authority register their metrics.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }
