package main

import "strings"

// maxSuggestLength bounds the words that suggestions are looked for, in bytes.
const maxSuggestLength = 64

// nearest returns the candidate that word was probably meant to be, or "" when none is near.
func nearest(word string, candidates []string) string {
	if len(word) > maxSuggestLength {
		return ""
	}
	best, bestDistance := "", len(word)/3+2 // a third of the letters may be wrong
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(word), strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	if bestDistance >= len(word) { // everything is near a word of two letters
		return ""
	}
	return best
}

// didYouMean is a phrase to append to a message, or "".
func didYouMean(word string, candidates []string) string {
	if n := nearest(word, candidates); n != "" {
		return `; did you mean "` + n + `"?`
	}
	return ""
}

// editDistance is the number of bytes to insert, remove or replace to turn a into b (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
