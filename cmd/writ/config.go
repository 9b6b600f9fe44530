package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// maxConfigBytes bounds the configuration file.
const maxConfigBytes = 1 << 20

// config is the configuration file of an authority. Its yaml tags are the keys; docs/configuration.md describes each
// of them, and a test compares the two. The rel tag marks values that are relative to the file.
type config struct {
	TrustDomain        string            `yaml:"trust_domain"`
	TrustDomainAliases []string          `yaml:"trust_domain_aliases"`
	RootNamespace      string            `yaml:"root_namespace"`
	Documents          string            `yaml:"documents" rel:"file"`
	DocumentsCandidate string            `yaml:"documents_candidate" rel:"file"` // tried on live traffic, never enforced
	State              string            `yaml:"state" rel:"file"`               // directory
	Store              *storeConfig      `yaml:"store"`
	Authz              *authzConfig      `yaml:"authz"`
	CA                 *caConfig         `yaml:"ca"`
	SDS                *sdsConfig        `yaml:"sds"`
	Admin              string            `yaml:"admin" rel:"address"`
	Diagnostics        diagnosticsConfig `yaml:"diagnostics" short:"listen"`
	Log                logConfig         `yaml:"log"`
}

// authzConfig switches the ext_authz server on.
type authzConfig struct {
	Listen          string            `yaml:"listen" rel:"address"`
	SocketMode      fileMode          `yaml:"socket_mode"` // of a Unix socket
	TLS             *tlsConfig        `yaml:"tls"`
	TrustedHops     int               `yaml:"trusted_hops"`
	Paths           string            `yaml:"paths"`
	JWT             string            `yaml:"jwt"` // verify or metadata
	JWKS            jwksConfig        `yaml:"jwks"`
	TokenCache      tokenCacheConfig  `yaml:"token_cache"`
	DecisionLog     decisionLogConfig `yaml:"decision_log"`
	MaxRequestBytes int               `yaml:"max_request_bytes"`
	Reflection      bool              `yaml:"reflection"`
	DrainTimeout    time.Duration     `yaml:"drain_timeout"`
	Overload        overloadConfig    `yaml:"overload" short:"answer"`
	MaxConnections  int               `yaml:"max_connections"`

	Providers          []providerConfig  `yaml:"providers"`           // whom CUSTOM policies may ask
	ExtensionProviders []extensionConfig `yaml:"extension_providers"` // the same as in Istio's MeshConfig
}

// tlsConfig is the server certificate of a listener, and whom it lets in. All are PEM files.
type tlsConfig struct {
	Cert     string `yaml:"cert" rel:"file"`
	Key      string `yaml:"key" rel:"file"`
	ClientCA string `yaml:"client_ca" rel:"file"`
}

// jwksConfig says how the keys that tokens are verified with are fetched.
type jwksConfig struct {
	AllowHTTP     bool              `yaml:"allow_http"`
	AllowNetworks []string          `yaml:"allow_networks"` // of private addresses that may be visited
	DenyNetworks  []string          `yaml:"deny_networks"`
	OnlyAllowed   bool              `yaml:"only_allowed"`  // public addresses, too, must be in allow_networks
	CA            map[string]string `yaml:"ca" rel:"file"` // PEM files by issuer or by host
	Proxy         string            `yaml:"proxy"`
	Refresh       time.Duration     `yaml:"refresh"`
	MaxStale      time.Duration     `yaml:"max_stale"`
}

// tokenCacheConfig bounds the memory for tokens that were verified before.
type tokenCacheConfig struct {
	Entries  int `yaml:"entries"` // 0: every token is verified on every request
	MaxBytes int `yaml:"max_bytes"`
}

type decisionLogConfig struct {
	To       string `yaml:"to" rel:"stream"` // stdout, stderr or a file
	Log      string `yaml:"log"`             // off, denials or all
	Subjects bool   `yaml:"subjects"`        // log whose tokens requests carry
}

type diagnosticsConfig struct {
	Listen string `yaml:"listen"`
	Pprof  bool   `yaml:"pprof"`
}

type logConfig struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// fileMode is a permission in octal, written with or without quotes.
type fileMode uint32

func defaultConfig() *config {
	return &config{
		TrustDomain:   "cluster.local",
		RootNamespace: "istio-system",
		Log:           logConfig{Level: "info", Format: "text"},
	}
}

// defaults fills the block before what the file says of it is read.
func (a *authzConfig) defaults() {
	*a = authzConfig{
		Listen:          "127.0.0.1:9191",
		SocketMode:      0o660,
		Paths:           "base",
		JWT:             string(authz.TokensVerify),
		JWKS:            jwksConfig{Refresh: 20 * time.Minute, MaxStale: 24 * time.Hour},
		TokenCache:      tokenCacheConfig{Entries: 16 << 10, MaxBytes: 64 << 20},
		DecisionLog:     decisionLogConfig{To: "stdout", Log: "denials"},
		MaxRequestBytes: 4 << 20,
		DrainTimeout:    10 * time.Second,
		Overload:        defaultOverload(),
		MaxConnections:  extauthz.DefaultMaxConnections,
	}
}

// laterKeys are keys of other versions of writ: a file that has them means something this version cannot do.
func laterKeys() []string {
	return []string{"kube", "documents.kube"}
}

func (c *config) mesh() policy.Mesh {
	return policy.Mesh{TrustDomain: c.TrustDomain, TrustDomainAliases: c.TrustDomainAliases, RootNamespace: c.RootNamespace}
}

// configProblem is one thing wrong with the configuration.
type configProblem struct {
	Source  string `json:"source"`           // the file, the environment variable or the flag
	Line    int    `json:"line,omitempty"`   // 1-based
	Column  int    `json:"column,omitempty"` // 1-based
	Key     string `json:"key,omitempty"`    // dotted, e.g. authz.listen
	Message string `json:"message"`          // names the value and the fix
}

func (p configProblem) Error() string {
	var b strings.Builder
	b.WriteString(p.Source)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	if p.Key != "" {
		b.WriteString(": " + p.Key)
	}
	return b.String() + ": " + p.Message
}

// configError is everything wrong with the configuration, in one error.
type configError []configProblem

func (e configError) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// loadConfig reads file, lets environment variables and then sets ("key=value") override it, and checks the result.
// A configError holds all that is wrong; any other error says why the file cannot be read.
func loadConfig(file string, env func(string) (string, bool), sets []string) (*config, error) {
	data, err := readBounded(file, maxConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c := defaultConfig()
	d := newConfigDecoder(file)
	if d.document(data, c) {
		d.environment(c, env)
		d.flags(c, sets)
		d.check(c)
	}
	if len(d.problems) > 0 {
		return nil, configError(d.problems)
	}
	return c, nil
}

// readBounded reads a whole file of at most limit bytes.
func readBounded(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, limit)
	}
	return data, nil
}

func parseFileMode(s string) (fileMode, error) {
	mode, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if err != nil || mode == 0 || mode > 0o777 {
		return 0, fmt.Errorf("%q is not a permission: write it in octal, such as 0660", s)
	}
	return fileMode(mode), nil
}
