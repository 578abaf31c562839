// SPDX-License-Identifier: Apache-2.0

package config

import "strings"

// nearest returns the known name closest to what was typed, "" when none is close.
func nearest(name string, known []string) string {
	if len(name) > 64 {
		return ""
	}
	best, bestDist := "", max(1, len(name)/3)+1
	for _, k := range known {
		d := distance(strings.ToLower(strings.ReplaceAll(name, "-", "_")), k)
		if d < bestDist {
			best, bestDist = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two short ASCII words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// elsewhere returns the full path of a key that exists in another section, "" when no section has it: "poll" at the top is
// update.poll.
func elsewhere(name string) string {
	for _, f := range Fields() {
		if strings.HasSuffix(f.Key, "."+name) {
			return f.Key
		}
	}
	return ""
}
