package main

import (
	"strings"
	"testing"
)

func TestOverloadConfig(t *testing.T) {
	t.Parallel()
	c, err := load(t, "documents: /etc/writ\nauthz:\n  overload: resource_exhausted\n", nil)
	if err != nil || c.Authz.Overload.Answer != "resource_exhausted" || c.Authz.Overload.Target != defaultOverload().Target {
		t.Errorf("short form: %+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"overload: allow":           `authz.overload.answer: "allow": want deny, resource_exhausted, off`,
		"overload: {target: 1us}":   "authz.overload.target: 1µs: want 100µs to 1s",
		"overload: {target: 1m}":    "authz.overload.target: 1m0s: want 100µs to 1s",
		"max_connections: 0":        "authz.max_connections: 0: want 1 to 1000000",
		"max_connections: 10000000": "authz.max_connections: 10000000: want 1 to 1000000",
	} {
		if _, err := load(t, "documents: /etc/writ\nauthz:\n  "+text+"\n", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}
