//go:build race

package main

// Bounds of the gate under the race detector, which makes pools forget and memory accesses slow.
const (
	maxAllocations = 95
	maxBytes       = 20000
	maxOfDecoding  = 0.8
	maxOfSignature = 4
)
