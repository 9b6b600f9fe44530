// Package policytest reads and runs tests of policies: files named *_test.yaml that stand beside the documents they are
// about, with requests and what is to be answered to them.
//
// Start with [Decoder.Decode], which turns one file into suites of cases, and with [New], which makes the runner of one set of
// documents. A case is decided by the code that serves: it becomes a CheckRequest, which [extauthz.Server] answers.
//
// Two things stand in for the world. A provider that is somewhere else answers what the case says, and a token is made
// of the case's unverified_claims and signed with a key that lives as long as the runner: every rule of the documents
// accepts that key for such a case, so that the rule's issuer, audiences and times decide, and nobody's signature does.
// No such token is ever shown. What a case leaves open is [Unknown], never guessed.
package policytest
