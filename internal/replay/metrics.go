package replay

import "github.com/prometheus/client_golang/prometheus"

// Tried is a trial as metrics show it.
type Tried struct {
	*Trial
	// Loaded says whether there is a set to compare with, and Failed whether the last attempt to load it failed or one of
	// its documents is broken.
	Loaded, Failed func() bool
}

// Register exports the counts of trials. Labels are bounded: the names of the trials and the kinds of differences.
func Register(registry prometheus.Registerer, trials ...Tried) error {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, append([]string{"set"}, labels...), nil)
	}
	return registry.Register(&collector{
		trials: trials,
		total: describe("writ_candidate_total",
			"Checks that another set of documents decided as well, by how its final answer differs from the enforced one.", "difference"),
		panics: describe("writ_candidate_panics_total", "Checks that the other set could not decide because of a panic; the enforced answer stood."),
		loaded: describe("writ_candidate_loaded", "1 while there is a set to compare with."),
		failed: describe("writ_candidate_load_failed", "1 while the set cannot be read or one of its documents is broken."),
	})
}

// collector reads the counts at the moment of a scrape.
type collector struct {
	trials                        []Tried
	total, panics, loaded, failed *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.total, c.panics, c.loaded, c.failed} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(out chan<- prometheus.Metric) {
	is := map[bool]float64{true: 1}
	for _, t := range c.trials {
		for _, k := range Kinds() {
			out <- prometheus.MustNewConstMetric(c.total, prometheus.CounterValue, float64(t.Tally().Count(k)), t.name, k.String())
		}
		out <- prometheus.MustNewConstMetric(c.panics, prometheus.CounterValue, float64(t.Panics()), t.name)
		out <- prometheus.MustNewConstMetric(c.loaded, prometheus.GaugeValue, is[t.Loaded()], t.name)
		out <- prometheus.MustNewConstMetric(c.failed, prometheus.GaugeValue, is[t.Failed()], t.name)
	}
}
