package opa

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// writ is input.writ: what writ knows of the request besides what the proxy sent.
func (b *builder) writ(ctx context.Context, q *authz.Question, want *demand) ast.Value {
	o := ast.NewObjectWithCapacity(7)
	add := func(name string, v func() ast.Value) {
		if want.of(name) != nil {
			o.Insert(b.keys[name], ast.NewTerm(v()))
		}
	}
	add("identity", func() ast.Value { return b.identity(q.Request) })
	add("claims", func() ast.Value { return claims(ctx, q) })
	add("workload", func() ast.Value { return b.workload(&q.Workload.Workload) })
	add("policy", func() ast.Value { return ast.String(q.Rule.Policy.String()) })
	add("rule", func() ast.Value { return ast.Number(intText(q.Rule.Index)) })
	add("provider", func() ast.Value { return ast.String(q.Rule.Policy.Provider) })
	add("decision_id", func() ast.Value { return ast.String(q.ID.String()) })
	return o
}

// identity is who the caller's certificate says it is, null for one without a SPIFFE ID. Parts that the ID does not name
// are absent.
func (b *builder) identity(r *policy.Request) ast.Value {
	i := slices.IndexFunc(r.Names, func(name string) bool { return strings.HasPrefix(name, spiffeScheme) })
	if i < 0 {
		return ast.NullValue
	}
	id := strings.Clone(r.Names[i])
	domain, path, _ := strings.Cut(strings.TrimPrefix(id, spiffeScheme), "/")
	o := ast.NewObject(b.pair("principal", ast.String(valid(id))), b.pair("trust_domain", ast.String(valid(domain))))
	parts := strings.Split(path, "/")
	if len(parts) == 4 && parts[0] == "ns" && parts[2] == "sa" {
		o.Insert(b.keys["namespace"], ast.StringTerm(valid(parts[1])))
		o.Insert(b.keys["service_account"], ast.StringTerm(valid(parts[3])))
	}
	return o
}

const spiffeScheme = "spiffe://"

// claims are those of the request's verified token, null when it has none or a bad one: that one is refused anyway, once
// providers have allowed the request.
func claims(ctx context.Context, q *authz.Question) ast.Value {
	result := q.Token(ctx)
	if result == nil || result.Status != 0 || result.Token == nil {
		return ast.NullValue
	}
	v, err := parseJSON(strings.Clone(result.Token.JSON()))
	if err != nil {
		return ast.NullValue
	}
	return v
}

func (b *builder) workload(w *policy.Workload) ast.Value {
	o := ast.NewObject(
		b.pair("namespace", ast.String(w.Namespace)),
		b.pair("name", ast.String(w.Name)),
		b.pair("service_account", ast.String(w.ServiceAccount)),
	)
	labels := ast.NewObjectWithCapacity(len(w.Labels))
	for _, k := range slices.Sorted(maps.Keys(w.Labels)) {
		labels.Insert(ast.StringTerm(k), ast.StringTerm(w.Labels[k]))
	}
	o.Insert(b.keys["labels"], ast.NewTerm(labels))
	return o
}
