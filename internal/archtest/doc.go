// Package archtest holds the rules about who may import whom, as tests. Start with the table rooms in rooms_test.go: a
// new package is refused until it has a row there.
package archtest
