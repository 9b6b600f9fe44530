package opa

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Defaults and bounds of a [Config].
const (
	DefaultDecision      = "envoy/authz/allow" // the plugin's
	DefaultPoll          = time.Minute
	MinPoll              = time.Second
	MaxPoll              = 24 * time.Hour
	DefaultMaxInputBytes = 1 << 20
	MaxMaxInputBytes     = 64 << 20
	DefaultMaxMemory     = 256 << 20
	MinMaxMemory         = 64 << 20 // what the heap grows by anyway, between two collections

	maxBundleBytes = 64 << 20 // of one bundle, compressed and not, and of all files of a directory
	maxBundleFiles = 10_000
	maxKeyBytes    = 64 << 10
	fetchTimeout   = 30 * time.Second
	lookEvery      = time.Second // at files, for changes
)

// Config says which policies answer. Only Bundle is required; every other zero value is a safe default.
type Config struct {
	Name string // of the provider, for the log

	// Bundle is where the policies are: a .rego file, a directory with .rego files and data in JSON or YAML, a bundle
	// (.tar.gz), or the URL of one. Files are looked at for changes, a URL is asked every Poll, DefaultPoll if 0.
	Bundle string
	Poll   time.Duration

	// Decision is the path of the document that answers, with slashes: DefaultDecision if empty.
	Decision string
	// V0 reads the Rego of OPA before 1.0, in which `if` and `contains` are not written.
	V0 bool

	// AllowBuiltins are functions that policies may call although they reach out of the policy: see [OffByDefault].
	AllowBuiltins []string

	// ProtoDescriptor is a file with the descriptors of gRPC services (FileDescriptorSet), so that parsed_body has the
	// messages of calls; empty leaves it null.
	ProtoDescriptor string

	// MaxInputBytes is the largest CheckRequest, body included, that is looked at: DefaultMaxInputBytes if 0.
	MaxInputBytes int

	// MaxMemory is how many bytes the process's heap may grow by while a request is evaluated: DefaultMaxMemory if 0. All
	// evaluations that have been under way for some milliseconds are stopped then.
	MaxMemory int

	// Key verifies the signature that a bundle then must have.
	Key *Key

	// The rest is for a Bundle that is a URL. Plain http is refused unless Key is set.
	CA        string // PEM file of roots to trust instead of the system's
	TokenFile string // with a bearer token to show; read anew for each request

	Logger *slog.Logger     // nil discards
	Now    func() time.Time // for policies (time.now_ns) and for times in Status; nil is time.Now
}

// Key is a public key for bundles that are signed.
type Key struct {
	File      string // PEM
	Algorithm string // RS256 if empty; RS, PS or ES with 256, 384 or 512
	Scope     string // that the signature must be for, if not empty
}

// OffByDefault are the functions of Rego that reach out of the policy into the network or the process.
func OffByDefault() []string {
	return []string{ast.HTTPSend.Name, ast.NetLookupIPAddr.Name, ast.OPARuntime.Name}
}

// Check says what is wrong with the configuration, nil if nothing. It reads no file.
func (c *Config) Check() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	remote := isURL(c.Bundle)
	switch {
	case c.Bundle == "":
		bad("bundle: missing: name the directory, the bundle file or the URL with the policies")
	case remote:
		if err := c.checkURL(); err != nil {
			problems = append(problems, err)
		}
	case c.CA != "" || c.TokenFile != "" || c.Poll != 0:
		bad("bundle: %q is a file: ca, token_file and poll are for a URL", c.Bundle)
	case c.Key != nil && !isTarball(c.Bundle):
		bad("key: only bundles are signed: name a .tar.gz file or a URL as bundle, not %q", c.Bundle)
	}
	if c.Poll != 0 && (c.Poll < MinPoll || c.Poll > MaxPoll) {
		bad("poll: %v: want %v to %v", c.Poll, MinPoll, MaxPoll)
	}
	if _, err := decisionRef(cmp.Or(c.Decision, DefaultDecision)); err != nil {
		problems = append(problems, err)
	}
	for _, name := range c.AllowBuiltins {
		if !slices.Contains(OffByDefault(), name) {
			bad("allow_builtins: %q is not off: want some of %s", name, strings.Join(OffByDefault(), ", "))
		}
	}
	if c.MaxInputBytes < 0 || c.MaxInputBytes > MaxMaxInputBytes {
		bad("max_input_bytes: %d: want 1 to %d", c.MaxInputBytes, MaxMaxInputBytes)
	}
	if c.MaxMemory != 0 && c.MaxMemory < MinMaxMemory {
		bad("max_memory: %d: want %d or more", c.MaxMemory, MinMaxMemory)
	}
	if k := c.Key; k != nil {
		if k.File == "" {
			bad("key.file: missing: name the PEM file with the public key")
		}
		if !slices.Contains(keyAlgorithms(), cmp.Or(k.Algorithm, keyAlgorithms()[0])) {
			bad("key.algorithm: %q: want %s", k.Algorithm, strings.Join(keyAlgorithms(), ", "))
		}
	}
	return errors.Join(problems...)
}

// keyAlgorithms are those with public keys: a secret that verifies could sign as well.
func keyAlgorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"}
}

func (c *Config) checkURL() error {
	u, err := url.Parse(c.Bundle)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return errors.New("bundle: want https://host/path of a bundle, without a user name") // the text may hold a password
	case u.Scheme == "http" && c.Key == nil:
		return fmt.Errorf("bundle: %s: whoever is on the way could change the policies: use https, or sign the bundle and set key", u.Redacted())
	}
	return nil
}

func isURL(s string) bool {
	return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://")
}

func isTarball(path string) bool {
	return strings.HasSuffix(path, ".tar.gz") || strings.HasSuffix(path, ".tgz")
}

var decisionPart = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// decisionRef is the query for the document at a path.
func decisionRef(path string) (string, error) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for _, part := range parts {
		if !decisionPart.MatchString(part) {
			return "", fmt.Errorf("decision: %q: want the path of a document with slashes, such as %s", path, DefaultDecision)
		}
	}
	return "data." + strings.Join(parts, "."), nil
}

// withDefaults returns the configuration filled in.
func (c Config) withDefaults() Config {
	c.Decision = cmp.Or(c.Decision, DefaultDecision)
	c.MaxInputBytes = cmp.Or(c.MaxInputBytes, DefaultMaxInputBytes)
	c.MaxMemory = cmp.Or(c.MaxMemory, DefaultMaxMemory)
	c.AllowBuiltins = slices.Clone(c.AllowBuiltins)
	if isURL(c.Bundle) {
		c.Poll = cmp.Or(c.Poll, DefaultPoll)
	} else {
		c.Bundle = filepath.Clean(c.Bundle)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}
