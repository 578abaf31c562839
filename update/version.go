// SPDX-License-Identifier: Apache-2.0

package update

import (
	"cmp"
	"strings"
)

// CompareVersions orders two version strings: negative if a is older than b,
// zero if they mean the same, positive if a is newer.
//
// The order is that of semantic versioning 2.0 section 11, made total so that
// a vendor's "2024.10b" has a place too: an optional leading v and everything
// from a plus sign on are ignored, missing fields count as 0, numbers compare
// by value whatever their length, a number is newer than a word, and a version
// with a pre-release part is older than the same without. An empty version is
// older than every other.
//
// It decides what people read and which agent is new enough. It is never the
// rollback check: that is the release counter.
func CompareVersions(a, b string) int {
	if a == "" || b == "" {
		return cmp.Compare(len(a), len(b))
	}
	coreA, preA := splitVersion(a)
	coreB, preB := splitVersion(b)
	if c := compareCore(coreA, coreB); c != 0 {
		return c
	}
	switch {
	case preA == preB:
		return 0
	case preA == "":
		return 1
	case preB == "":
		return -1
	}
	return comparePre(preA, preB)
}

// splitVersion returns the dotted part and the pre-release part.
func splitVersion(v string) (core, pre string) {
	v = strings.TrimPrefix(v, "v")
	v, _, _ = strings.Cut(v, "+")
	core, pre, _ = strings.Cut(v, "-")
	return core, pre
}

func compareCore(a, b string) int {
	for a != "" || b != "" {
		var fa, fb string
		fa, a, _ = strings.Cut(a, ".")
		fb, b, _ = strings.Cut(b, ".")
		if fa == "" {
			fa = "0"
		}
		if fb == "" {
			fb = "0"
		}
		na, nb := isNumber(fa), isNumber(fb)
		switch {
		case na && nb:
			if c := compareNumbers(fa, fb); c != 0 {
				return c
			}
		case na:
			return 1
		case nb:
			return -1
		case fa != fb:
			return strings.Compare(fa, fb)
		}
	}
	return 0
}

// comparePre differs from compareCore as semantic versioning demands: a number
// is older than a word, and fewer fields are older.
func comparePre(a, b string) int {
	fa, fb := strings.Split(a, "."), strings.Split(b, ".")
	for i := 0; i < len(fa) && i < len(fb); i++ {
		na, nb := isNumber(fa[i]), isNumber(fb[i])
		switch {
		case na && nb:
			if c := compareNumbers(fa[i], fb[i]); c != 0 {
				return c
			}
		case na:
			return -1
		case nb:
			return 1
		case fa[i] != fb[i]:
			return strings.Compare(fa[i], fb[i])
		}
	}
	return cmp.Compare(len(fa), len(fb))
}

func isNumber(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// compareNumbers compares digits of any length, so nothing can overflow.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if c := cmp.Compare(len(a), len(b)); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}
