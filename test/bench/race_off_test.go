//go:build !race

package main

// Bounds of the gate.
const (
	maxAllocations = 75
	maxBytes       = 9000
	maxOfDecoding  = 0.8
	maxOfSignature = 1.6
)
