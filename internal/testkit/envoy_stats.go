package testkit

import (
	"context"
	"encoding/json"
	"fmt"
)

// Counters are the values of all counters that have counted anything.
func (e *Envoy) Counters(ctx context.Context) (map[string]uint64, error) {
	body, err := getOK(ctx, "http://"+e.Admin+"/stats?format=json&type=Counters&usedonly")
	if err != nil {
		return nil, err
	}
	var stats struct {
		Stats []struct {
			Name  string `json:"name"`
			Value uint64 `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(body, &stats); err != nil {
		return nil, fmt.Errorf("counters of %s: %w", e.Name, err)
	}
	counters := make(map[string]uint64, len(stats.Stats))
	for _, s := range stats.Stats {
		counters[s.Name] = s.Value
	}
	return counters, nil
}
