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

// distance is the optimal string alignment distance of two short ASCII words: swapped neighbours count as one edit.
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		cur[0] = i + 1
		for j := range len(b) {
			cost := prev[j]
			if a[i] != b[j] {
				cost++
			}
			cur[j+1] = min(cost, prev[j+1]+1, cur[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				cur[j+1] = min(cur[j+1], before[j-1]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
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
