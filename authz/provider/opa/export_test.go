package opa

import (
	"context"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/writ-auth/writ/authz"
)

// Input is the whole input of a question.
func Input(ctx context.Context, q *authz.Question) (ast.Value, error) {
	return newBuilder(nil).input(ctx, q, everything())
}

// InputFor is the input as far as the policies that are in force look at it.
func (p *Provider) InputFor(ctx context.Context, q *authz.Question) (ast.Value, error) {
	return p.builder.input(ctx, q, p.program.Load().want)
}
