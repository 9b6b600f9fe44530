package main

import (
	"fmt"

	"github.com/writ-auth/writ/authz/provider"
	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// lintFacts is what a configuration says that findings depend on.
type lintFacts struct {
	mesh      policy.Mesh
	providers *analysis.Providers // nil without a configuration
}

// lintFacts reads the configuration, or takes the defaults and knows of no providers if none is named.
func (c *cli) lintFacts(configFile string) (lintFacts, error) {
	if configFile == "" {
		return lintFacts{mesh: defaultConfig().mesh()}, nil
	}
	cfg, err := c.loadConfig(configFile, nil)
	if err != nil {
		return lintFacts{}, err
	}
	ps := &analysis.Providers{File: configFile}
	for i := range cfg.Authz.Providers {
		p := &cfg.Authz.Providers[i]
		ps.All = append(ps.All, analysis.Provider{Name: p.Name, FailOpen: p.FailOpen, Key: fmt.Sprintf("authz.providers[%d]", i)})
	}
	for i := range cfg.Authz.ExtensionProviders {
		e, err := provider.ParseExtension(cfg.Authz.ExtensionProviders[i].text)
		if err != nil {
			return lintFacts{}, err
		}
		ps.All = append(ps.All, analysis.Provider{Name: e.Name, FailOpen: e.FailOpen, Key: fmt.Sprintf("authz.extension_providers[%d]", i)})
	}
	return lintFacts{cfg.mesh(), ps}, placeProviders(ps)
}

// placeProviders finds the lines of the configuration in which providers are named.
func placeProviders(ps *analysis.Providers) error {
	data, err := readBounded(ps.File, maxConfigBytes)
	if err != nil {
		return err
	}
	d := newConfigDecoder(ps.File)
	d.document(data, defaultConfig())
	for i := range ps.All {
		p := &ps.All[i]
		place, ok := d.places[p.Key+".name"]
		if !ok {
			place = d.places[p.Key]
		}
		p.Line, p.Column = place.Line, place.Column
	}
	return nil
}
