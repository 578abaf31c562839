// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"sort"
	"strconv"
	"strings"
)

// unnamed are the shed records that no log.shed record has named yet, in order. A device names what it sheds in the commit that
// sheds it; a hash in the place of a record that nothing names was put there by somebody else, or the record that names it comes
// after the end of the evidence.
type unnamed struct {
	ranges      []Range
	full        bool // too many ranges: only the sums are compared from here on
	shed, named uint64
}

// maxUnnamed bounds the ranges that are remembered: 1 MiB.
const maxUnnamed = 1 << 16

// add takes over the shed records from at to end-1.
func (u *unnamed) add(at, end uint64) {
	u.shed += end - at
	n := len(u.ranges)
	switch {
	case u.full:
	case n > 0 && u.ranges[n-1].Last+1 == at:
		u.ranges[n-1].Last = end - 1
	case n == maxUnnamed:
		u.ranges, u.full = nil, true
	default:
		u.ranges = append(u.ranges, Range{First: at, Last: end - 1})
	}
}

// name takes over the ranges of a log.shed record: "3,7-19". What it names beyond what is shed counts for nothing.
func (u *unnamed) name(text string) {
	for part := range strings.SplitSeq(text, ",") {
		a, b, ok := strings.Cut(part, "-")
		first, err := strconv.ParseUint(a, 10, 63)
		last := first
		if ok && err == nil {
			last, err = strconv.ParseUint(b, 10, 63)
		}
		if err != nil || last < first {
			return
		}
		u.named += last - first + 1
		u.remove(Range{First: first, Last: last})
	}
}

func (u *unnamed) remove(r Range) {
	i := sort.Search(len(u.ranges), func(i int) bool { return u.ranges[i].Last >= r.First })
	var rest []Range // at most one before r and one behind it
	j := i
	for ; j < len(u.ranges) && u.ranges[j].First <= r.Last; j++ {
		o := u.ranges[j]
		if o.First < r.First {
			rest = append(rest, Range{First: o.First, Last: r.First - 1})
		}
		if o.Last > r.Last {
			rest = append(rest, Range{First: r.Last + 1, Last: o.Last})
		}
	}
	switch gone := j - i - len(rest); {
	case gone < 0: // one became two
		u.ranges = append(u.ranges, Range{})
		copy(u.ranges[j+1:], u.ranges[j:])
	case gone > 0 && i == 0: // as a device names them
		u.ranges = u.ranges[gone:]
	case gone > 0:
		u.ranges = append(u.ranges[:j-gone], u.ranges[j:]...)
	}
	copy(u.ranges[i:], rest)
}

// count returns how many records are left.
func (u *unnamed) count() (n uint64) {
	if u.full {
		return u.shed - min(u.shed, u.named)
	}
	for _, r := range u.ranges {
		n += r.Last - r.First + 1
	}
	return n
}
