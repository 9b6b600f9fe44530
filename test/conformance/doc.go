// Package conformance compares writ with recorded answers of the systems it has to agree with. The recordings are in
// testdata, each with a README that says where they come from.
package conformance
