// Package analysis says what a set of documents means beyond single answers. Start with [Lint]: it reports hazards,
// documents that are valid and do something else than they look like.
//
// What is invalid is found by [policy.Decode], and broken documents are passed over here. Errors of this package are about
// what stands around documents: providers that are not configured ([Inspect]), and suppressions ([Suppress]). Nothing in it
// takes part in a decision.
package analysis
