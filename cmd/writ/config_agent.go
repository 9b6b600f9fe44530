package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
	"github.com/writ-auth/writ/sds/agent"
)

// Bounds of an agent's configuration.
const (
	leastAlarmPercent = 1
	mostAlarmPercent  = 49 // a renewal is due at half of the life
)

// agentConfig is the configuration file of an agent. Its yaml tags are the keys; docs/agent.md describes each of them, and
// a test compares the two.
type agentConfig struct {
	TrustDomain  string            `yaml:"trust_domain"`
	ID           string            `yaml:"id"` // the agent's own identity; by default what its proof stands for
	Authority    *authorityConfig  `yaml:"authority"`
	Attest       agentAttestConfig `yaml:"attest"`
	State        string            `yaml:"state" rel:"file"` // directory; empty keeps nothing
	TTL          time.Duration     `yaml:"ttl"`
	AlarmPercent int               `yaml:"alarm_percent"`
	SDS          agentSDSConfig    `yaml:"sds"`
	Workloads    []workloadConfig  `yaml:"workloads"`
	Admin        string            `yaml:"admin" rel:"address"`
	Diagnostics  diagnosticsConfig `yaml:"diagnostics" short:"listen"`
	Log          logConfig         `yaml:"log"`
}

// authorityConfig says whom the agent asks.
type authorityConfig struct {
	Address    string   `yaml:"address"`   // host:port
	Addresses  []string `yaml:"addresses"` // several, tried in this order
	Bundle     string   `yaml:"bundle" rel:"file"`
	ServerName string   `yaml:"server_name"`
	ID         string   `yaml:"id"` // its SPIFFE ID, instead of a name
}

// agentAttestConfig says how the agent proves who it is before it has a certificate. At most one is set.
type agentAttestConfig struct {
	JoinTokenFile       string `yaml:"join_token_file" rel:"file"`
	ServiceAccountToken string `yaml:"service_account_token" rel:"file"`
}

// agentSDSConfig says where secrets are served.
type agentSDSConfig struct {
	Listen     string         `yaml:"listen" rel:"address"`
	SocketMode fileMode       `yaml:"socket_mode"`
	Names      sdsNamesConfig `yaml:"names"`
}

// sdsNamesConfig says what proxies call the secrets that have no SPIFFE ID for a name; an empty one is the usual name.
type sdsNamesConfig struct {
	Default string `yaml:"default"`
	Roots   string `yaml:"roots"`
	All     string `yaml:"all"`
}

func (n sdsNamesConfig) names() sds.Names {
	return sds.Names{Default: n.Default, Roots: n.Roots, All: n.All}
}

// workloadConfig says which processes may have an identity: those that all of its conditions match.
type workloadConfig struct {
	ID     string `yaml:"id"`
	UID    *int   `yaml:"uid"`
	GID    *int   `yaml:"gid"`
	Path   string `yaml:"path"` // absolute
	SHA256 string `yaml:"sha256"`
}

func defaultAgentConfig() *agentConfig {
	return &agentConfig{
		TrustDomain:  "cluster.local",
		AlarmPercent: 100 / agent.DefaultAlarmPart,
		// Whoever may connect is told apart by the kernel, and gets nothing without an entry: the socket itself is open.
		SDS: agentSDSConfig{Listen: "unix:///run/writ/agent.sock", SocketMode: 0o666},
		Log: logConfig{Level: "info", Format: "text"},
	}
}

// isAgentConfig reports whether a configuration file is an agent's: it has an authority to ask. A file that cannot be read
// is not; reading it in earnest says why.
func isAgentConfig(file string) bool {
	data, err := readBounded(file, maxConfigBytes)
	if err != nil {
		return false
	}
	var top map[string]yaml.Node
	if yaml.Load(data, &top) != nil {
		return false
	}
	_, authority := top["authority"]
	_, workloads := top["workloads"]
	return authority || workloads
}

// loadAgentConfig does for agents what loadConfig does for authorities.
func loadAgentConfig(file string, env func(string) (string, bool), sets []string) (*agentConfig, error) {
	data, err := readBounded(file, maxConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c := defaultAgentConfig()
	d := newConfigDecoder(file)
	if d.document(data, c) {
		d.environment(c, env)
		d.flags(c, sets)
		d.checkAgent(c)
	}
	if len(d.problems) > 0 {
		return nil, configError(d.problems)
	}
	return c, nil
}

// loadAgentConfig is loadAgentConfig with this process's environment, and the exit code of an invalid file.
func (c *cli) loadAgentConfig(file string, sets []string) (*agentConfig, error) {
	cfg, err := loadAgentConfig(file, c.env, sets)
	var invalid configError
	if errors.As(err, &invalid) {
		return nil, invalidf("the configuration is invalid\n%w", err)
	}
	return cfg, err
}

// checkAgent looks at the meaning of a config whose types are right.
func (d *configDecoder) checkAgent(c *agentConfig) {
	domain, err := spiffeid.TrustDomain(c.TrustDomain)
	if err != nil {
		d.bad("trust_domain", "%v", err)
	}
	if c.ID != "" {
		d.checkWorkloadID("id", c.ID, domain)
	}
	d.checkAuthorityOf(c, domain)
	a := c.Attest
	switch {
	case a.JoinTokenFile != "" && a.ServiceAccountToken != "":
		d.bad("attest", "join_token_file and service_account_token: want one of them")
	case a.JoinTokenFile == "" && a.ServiceAccountToken == "" && c.State == "":
		d.bad("attest", "missing: how does the agent prove who it is? Name a join_token_file, as writ token create --out makes it, or a service_account_token")
	}
	if c.TTL < 0 || c.TTL > mostCertificateTTL || c.TTL%time.Second != 0 {
		d.bad("ttl", "%v: want whole seconds, 0s for the authority's default to %v", c.TTL, mostCertificateTTL)
	}
	if c.AlarmPercent < leastAlarmPercent || c.AlarmPercent > mostAlarmPercent {
		d.bad("alarm_percent", "%d: want %d to %d: what is left of a certificate's life when the alarm is raised", c.AlarmPercent, leastAlarmPercent, mostAlarmPercent)
	}
	d.checkSocket("sds.listen", c.SDS.Listen, "callers are told apart by the kernel")
	d.checkNames(c.SDS.Names)
	if c.Admin != "" {
		d.checkSocket("admin", c.Admin, "the admin interface has no password")
	}
	if c.Admin != "" && c.Admin == c.SDS.Listen {
		d.bad("admin", "%s is the address of sds.listen too: use another", c.Admin)
	}
	for i := range c.Workloads {
		d.checkWorkload(fmt.Sprintf("workloads[%d]", i), &c.Workloads[i], domain)
	}
	d.checkDiagnostics(c.Diagnostics)
	d.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	d.oneOf("log.format", c.Log.Format, "text", "json")
}

func (d *configDecoder) checkAuthorityOf(c *agentConfig, domain spiffeid.ID) {
	a := c.Authority
	if a == nil {
		d.bad("authority", "missing: whom to ask? Name its address, host:port, and a bundle")
		return
	}
	if (a.Address == "") == (len(a.Addresses) == 0) {
		d.bad("authority", "want one of address, host:port, and addresses, a list of them")
	}
	for i, address := range a.addresses() {
		key := "authority.address"
		if a.Address == "" {
			key = fmt.Sprintf("authority.addresses[%d]", i)
		}
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" {
			d.bad(key, "%q: want host:port, such as authority.example:8081", address)
		} else if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			d.bad(key, "%q: want a port from 1 to 65535, not %q", address, port)
		}
	}
	if a.Bundle == "" {
		d.bad("authority.bundle", "missing: name a PEM file with the authority's roots, as writ ca bundle prints them: without, it cannot be told from an impostor")
	}
	if a.ID != "" && a.ServerName != "" {
		d.bad("authority.id", "id and server_name: want one of them, or neither to go by the host of the address")
	}
	if a.ID != "" {
		d.checkWorkloadID("authority.id", a.ID, domain)
	}
}

func (d *configDecoder) checkNames(n sdsNamesConfig) {
	if err := n.names().Check(); err != nil {
		d.bad("sds.names", "%v", err)
	}
}

func (d *configDecoder) checkWorkload(key string, w *workloadConfig, domain spiffeid.ID) {
	d.checkWorkloadID(key+".id", w.ID, domain)
	for name, id := range map[string]*int{".uid": w.UID, ".gid": w.GID} {
		if id != nil && (*id < 0 || *id >= math.MaxUint32) {
			d.bad(key+name, "%d: want 0 to %d", *id, uint32(math.MaxUint32-1))
		}
	}
	switch {
	case w.UID == nil && w.GID == nil && w.Path == "" && w.SHA256 == "":
		d.bad(key, "every process would match: add a uid, a gid, a path or a sha256")
	case w.Path != "" && (!filepath.IsAbs(w.Path) || filepath.Clean(w.Path) != w.Path):
		d.bad(key+".path", "%q: want the absolute path of the program, without dots", w.Path)
	case w.SHA256 != "" && (len(w.SHA256) != 64 || strings.Trim(w.SHA256, "0123456789abcdef") != ""):
		d.bad(key+".sha256", "%q: want 64 hexadecimal digits in lower case, as sha256sum prints them", w.SHA256)
	}
}

// checkWorkloadID wants an identity of the trust domain, unless that is wrong itself.
func (d *configDecoder) checkWorkloadID(key, text string, domain spiffeid.ID) {
	id, err := spiffeid.Parse(text)
	switch {
	case text == "":
		d.bad(key, "missing: want spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")
	case err != nil:
		d.bad(key, "%v", err)
	case id.Path() == "":
		d.bad(key, "%q: names the trust domain, not a workload: want a path", text)
	case !domain.IsZero() && id.TrustDomain() != domain.TrustDomain():
		d.bad(key, "%q: not of the trust domain %s", text, domain.TrustDomain())
	}
}

func (d *configDecoder) checkSocket(key, text, why string) {
	if a, err := parseAddress(text); err != nil {
		d.bad(key, "%v", err)
	} else if a.network != "unix" {
		d.bad(key, "%q: %s, so it is a Unix socket: write unix:///run/writ/NAME.sock", text, why)
	}
}

func (a *authorityConfig) addresses() []string {
	if a.Address != "" {
		return []string{a.Address}
	}
	return a.Addresses
}

// workloads are the rules of a configuration that was checked.
func (c *agentConfig) workloads() ([]agent.Workload, error) {
	var rules []agent.Workload
	for _, w := range c.Workloads {
		id, err := spiffeid.Parse(w.ID)
		if err != nil {
			return nil, err
		}
		rules = append(rules, agent.Workload{ID: id, UID: number(w.UID), GID: number(w.GID), Path: w.Path, SHA256: w.SHA256})
	}
	return rules, nil
}

func number(id *int) *uint32 {
	if id == nil {
		return nil
	}
	n := uint32(*id)
	return &n
}

// agent is the configuration in the agent's own words.
func (c *agentConfig) agent() (agent.Config, error) {
	domain, err := spiffeid.TrustDomain(c.TrustDomain)
	if err != nil {
		return agent.Config{}, err
	}
	cfg := agent.Config{
		TrustDomain: domain, Authorities: c.Authority.addresses(), ServerName: c.Authority.ServerName, BundleFile: c.Authority.Bundle,
		JoinTokenFile: c.Attest.JoinTokenFile, TokenFile: c.Attest.ServiceAccountToken, StateDir: c.State, TTL: c.TTL,
		AlarmPart: max(2, 100/c.AlarmPercent),
	}
	for _, id := range []struct {
		text string
		into *spiffeid.ID
	}{{c.ID, &cfg.ID}, {c.Authority.ID, &cfg.ServerID}} {
		if err := id.into.UnmarshalText([]byte(id.text)); err != nil {
			return agent.Config{}, err
		}
	}
	return cfg, nil
}
