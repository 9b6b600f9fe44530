package policytest

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// What a test file says it is.
const (
	APIVersion = policy.TestAPIVersion
	Kind       = policy.KindPolicyTest
)

// Bounds of test files.
const (
	MaxFileBytes = 8 << 20
	MaxCases     = 100_000 // of one file, matrices expanded

	maxProblems = 100 // of one file that are listed
)

// Suite is one document of a test file.
type Suite struct {
	Name     string
	File     string
	Policies []string // files and directories of documents, relative to File's directory or absolute; empty is that directory
	Cases    []Case
}

// Paths are the files and directories of documents that the suite is about.
func (s *Suite) Paths() []string {
	dir := filepath.Dir(s.File)
	if len(s.Policies) == 0 {
		return []string{dir}
	}
	paths := make([]string, len(s.Policies))
	for i, p := range s.Policies {
		if paths[i] = p; !filepath.IsAbs(p) {
			paths[i] = filepath.Join(dir, p)
		}
	}
	return paths
}

// Case is one request with what is expected of its answer: a test, or one combination of its matrix.
type Case struct {
	Suite        string
	Name         string
	File         string
	Line, Column int    // of the test
	path         string // such as tests[0]

	Request   Request
	Providers map[string]Answer
	Time      time.Time // when tokens are verified; zero is now
	Expect    Expect
}

// ID names the case among all: suite/name.
func (c *Case) ID() string { return c.Suite + "/" + c.Name }

// Answer is what a stub says in the place of a provider.
type Answer string

// Answers.
const (
	AnswerAllow Answer = "allow"
	AnswerDeny  Answer = "deny"
	AnswerError Answer = "error" // no answer: fail_open and status_on_error decide
)

func answers() []string {
	return []string{string(AnswerAllow), string(AnswerDeny), string(AnswerError)}
}

// Request is one request or TCP connection.
type Request struct {
	To      policy.Workload
	ToName  string // as the file calls it
	From    string // spiffe://…, namespace/serviceaccount, or "" for no certificate
	Source  string // IP addresses, "" when not known
	Dest    string
	Port    uint16
	Method  string
	Path    string
	Host    string
	Headers []policy.Header // in the order given, names in lower case
	SNI     string
	TCP     bool
	line    bool // method or path are those of the test, not of the defaults

	Metadata map[string]any // of the proxy's filters, by namespace
	Claims   map[string]any // unverified_claims; nil for no token
	ClaimsAt string         // where their token is sent, as [Place] names it; empty for where the workload's rules look first
}

// String describes the request in a few words.
func (r *Request) String() string {
	from := r.From
	if from == "" {
		from = "a caller without a certificate"
	}
	text := r.Method + " " + r.Path
	if r.Host != "" {
		text += " at " + r.Host
	}
	if r.TCP {
		text = "TCP connection"
	}
	if r.Port != 0 {
		text += fmt.Sprintf(", port %d,", r.Port)
	}
	return text + " from " + from + " to " + r.ToName
}

// Expect is what a case demands; zero values demand nothing.
type Expect struct {
	Decision string // ALLOW or DENY
	Status   int
	Layer    authz.Layer
	Policy   string // namespace/name, or None
	Rule     *int
	Audit    string // namespace/name of the policy that audits it, or None

	DryRunDeny, DryRunAllow string // namespace/name of the dry-run policy that matches, or None
}

// None is expected where no policy is to be named.
const None = "none"

func (e *Expect) empty() bool { return *e == Expect{} }

// Problem is one thing wrong with a test file.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"` // 1-based
	Column  int    `json:"column,omitempty"`
	Field   string `json:"field,omitempty"` // dotted, such as tests[0].expect.status
	Message string `json:"message"`         // names the value and the fix
}

// Error is the problem in one line, with its place.
func (p Problem) Error() string {
	text := p.File
	if p.Line > 0 {
		text += fmt.Sprintf(":%d:%d", p.Line, max(p.Column, 1))
	}
	if p.Field != "" {
		text += ": " + p.Field
	}
	return text + ": " + p.Message
}

// short is a value in as few words as will do to tell it from another.
func short(v any) string {
	text, ok := v.(string)
	if !ok {
		data, err := json.Marshal(v)
		if err != nil {
			return "?"
		}
		text = string(data)
	}
	const most = 60
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most-1]) + "…"
	}
	if text == "" {
		return "''"
	}
	return text
}
