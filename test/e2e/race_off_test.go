//go:build !race

package e2e_test

// buildFlags make writ itself report data races when the tests look for them.
var buildFlags []string
