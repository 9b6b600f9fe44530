package policy

import "strings"

// maxSuggestLength bounds the words that suggestions are looked for, in bytes: comparing costs the product of the
// lengths, and nobody mistypes a word this long.
const maxSuggestLength = 64

// nearest returns the candidate that word most likely stands for, or "": at most a third of its letters wrong, letter
// case aside. The first of equally near candidates wins.
func nearest(word string, candidates []string) string {
	if word == "" || len(word) > maxSuggestLength {
		return ""
	}
	best, bestDistance := "", max(1, len(word)/3)+1
	folded := strings.ToLower(word)
	for _, c := range candidates {
		if d := editDistance(folded, strings.ToLower(c), bestDistance); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions, substitutions and swaps of neighbours that turn a into b, or returns
// limit when that many or more are needed.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			substitution := last[j-1]
			if a[i-1] != b[j-1] {
				substitution++
			}
			row[j] = min(substitution, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return min(last[len(b)], limit)
}
