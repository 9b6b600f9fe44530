// Package opa answers for CUSTOM policies by Rego, evaluated in this process by Open Policy Agent's library. Start with
// [New], [Provider.Load] and [Provider.Run].
//
// Rego written for OPA's own Envoy plugin runs unchanged: the input has the same shape (attributes, parsed_path,
// parsed_query, parsed_body, truncated_body, version) and so has the result, a boolean or an object with allowed,
// http_status, headers and so on. input.writ has what writ knows besides: the verified identity, the claims of the
// verified token, the workload, the policy that asked and the decision's ID.
//
// The input is built from the bytes of the CheckRequest straight into OPA's own terms, and only those parts of it that
// the loaded policies mention: what is not mentioned cannot change the answer.
//
// A policy that is not there yet, says nothing, says something that means nothing or takes too long is a denial with its
// own reason. What is loaded is swapped as a whole; what does not load leaves the last good policies in force.
package opa
