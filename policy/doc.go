// Package policy turns Istio documents into decisions' raw material: documents are decoded strictly, validated as
// Istio's admission does, compiled once into an immutable [Snapshot], and matched against a [Request] with no
// allocation and no lock.
//
// Start with [Decode] (bytes to documents), [NewSnapshot] (documents to what is enforced), [Snapshot.Resolve] (which
// rules govern a workload) and [Ruleset.Evaluate] (what they say of one request). [Explain] tells the whole story of
// one answer, slowly.
//
// The package is pure: it opens no connection, reads no clock, and the only files it reads are those of a
// [Directory]. It never decides by itself: package authz puts the layers in order.
package policy
