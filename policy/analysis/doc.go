// Package analysis says what a set of documents means beyond single answers. Start with [Lint]: it reports hazards,
// documents that are valid and do something else than they look like.
//
// It never reports errors: what is invalid is found by [policy.Decode]. Broken documents are passed over here. Nothing in
// this package takes part in a decision.
package analysis
