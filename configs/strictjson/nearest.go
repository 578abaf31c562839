// SPDX-License-Identifier: Apache-2.0

package strictjson

import "strings"

// longestName bounds the work of Nearest for a name that an attacker chose.
const longestName = 64

// Nearest returns the known name closest to name, or "" when none is close enough to be a slip of the pen: more than a
// third of the letters (at least two) would have to change.
func Nearest(name string, known []string) string {
	if len(name) > longestName {
		return ""
	}
	best, bestDist := "", max(2, len(name)/3)+1
	for _, k := range known {
		if len(k) > longestName {
			continue
		}
		if strings.EqualFold(k, name) {
			return k
		}
		d := distance(name, k)
		if d < bestDist || d == bestDist && best != "" && gap(name, k) < gap(name, best) {
			best, bestDist = k, d
		}
	}
	return best
}

// distance is the number of bytes to insert, delete or replace to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diag
			if a[i-1] != b[j-1] {
				cost++
			}
			diag = row[j]
			row[j] = min(row[j]+1, row[j-1]+1, cost)
		}
	}
	return row[len(b)]
}

// gap is the difference in length; of two names as close, the one of about the same length is meant.
func gap(a, b string) int { return max(len(a)-len(b), len(b)-len(a)) }
