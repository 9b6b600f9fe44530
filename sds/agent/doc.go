// Package agent is the node side of identity: it makes keys, has an authority certify them, renews in time, and follows
// what the trust domain trusts. What it holds goes into an [sds.Vault], for package sds to serve.
//
// Start with [New] and [Agent.Run]. Private keys are made here and leave the process only over the local socket that the
// vault is served on; the agent's own key is also in its state directory, if it has one, because that key is what a
// restarted agent proves itself with. A [Workloads] says which local process may have which identity.
package agent
