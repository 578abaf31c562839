// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"strings"
)

// SshdValues gives what counts of a keyword: for everybody, and for whoever meets a condition.
func SshdValues(h *Host, config, keyword string) (outside string, somewhere []string, err error) {
	r := sshdReader{h: h}
	lines, err := r.read(context.Background(), config, 0, false, 0)
	c := sshdCheck{keyword: keyword}
	value := func(l sshdLine) string { return strings.Replace(l.args[0], "without-password", "prohibit-password", 1) }
	first, some := c.effective(lines)
	if first != nil {
		outside = value(*first)
		somewhere = append(somewhere, outside)
	}
	for _, l := range some {
		somewhere = append(somewhere, value(l))
	}
	return outside, somewhere, err
}
