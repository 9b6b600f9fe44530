package opa

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// content is what a source holds: parsed policies and data.
type content struct {
	modules  map[string]*ast.Module
	data     map[string]any
	revision string // what the bundle calls itself
	version  string // tells this content from another: an ETag, or times and sizes of files
}

// program is content made ready to answer. It is immutable.
type program struct {
	query    rego.PreparedEvalQuery
	want     *demand
	revision string
	version  string
	modules  int
	loaded   time.Time
}

// maxCompileErrors bounds what is said about policies that do not compile.
const maxCompileErrors = 10

// regoVersion is the language that policies are written in.
func (c *Config) regoVersion() ast.RegoVersion {
	if c.V0 {
		return ast.RegoV0
	}
	return ast.RegoV1
}

// capabilities are what policies may call.
func (c *Config) capabilities() *ast.Capabilities {
	caps := ast.CapabilitiesForThisVersion()
	caps.Builtins = slices.DeleteFunc(slices.Clone(caps.Builtins), func(b *ast.Builtin) bool {
		return slices.Contains(OffByDefault(), b.Name) && !slices.Contains(c.AllowBuiltins, b.Name)
	})
	caps.AllowNet = []string{} // no remote schemas for the type checker
	return caps
}

// compile makes a program of content. Errors name file, line and column.
func (c *Config) compile(ctx context.Context, in *content) (*program, error) {
	caps := c.capabilities()
	compiler := ast.NewCompiler().WithCapabilities(caps).WithEnablePrintStatements(true).
		WithDefaultRegoVersion(c.regoVersion()).SetErrorLimit(maxCompileErrors)
	if compiler.Compile(in.modules); compiler.Failed() {
		return nil, compileError(compiler.Errors)
	}
	ref, err := decisionRef(c.Decision)
	if err != nil {
		return nil, err
	}
	path, err := ast.ParseRef(ref)
	if err != nil {
		return nil, fmt.Errorf("decision: %s is no document of Rego", c.Decision)
	}
	if len(compiler.GetRules(path)) == 0 {
		return nil, fmt.Errorf("no policy defines the decision %s (%s): name another one as decision", c.Decision, ref)
	}
	store := inmem.NewFromObjectWithOpts(in.data, inmem.OptReturnASTValuesOnRead(true))
	query, err := rego.New(
		rego.Query(ref),
		rego.Compiler(compiler),
		rego.Store(store),
		rego.Capabilities(caps),
		rego.SetRegoVersion(c.regoVersion()),
		rego.GenerateJSON(func(t *ast.Term, _ *rego.EvalContext) (any, error) { return t, nil }),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, compileError(err)
	}
	return &program{
		query: query, want: demanded(compiler.Modules), revision: in.revision, version: in.version, modules: len(in.modules), loaded: c.Now(),
	}, nil
}

// compileError shows OPA's errors as file:line:column: message, one a line, a bounded number of them.
func compileError(err error) error {
	var list ast.Errors
	var one *ast.Error
	switch {
	case errors.As(err, &list):
	case errors.As(err, &one):
		list = ast.Errors{one}
	default:
		return err
	}
	var lines []string
	for i, e := range list {
		if i == maxCompileErrors {
			lines = append(lines, fmt.Sprintf("and %d more", len(list)-i))
			break
		}
		line := strings.TrimSpace(e.Message)
		if e.Location != nil {
			line = fmt.Sprintf("%s:%d:%d: %s", e.Location.File, e.Location.Row, e.Location.Col, line)
		}
		lines = append(lines, line)
	}
	return errors.New(strings.Join(lines, "\n"))
}
