// SPDX-License-Identifier: Apache-2.0

package probe

import "strings"

// dropSetting takes a word out of a list with commas, with one of the commas beside it.
func dropSetting(line, word string) string {
	for i := 0; ; {
		j := strings.Index(line[i:], word)
		if j < 0 {
			return line
		}
		j += i
		left, right := strings.TrimRight(line[:j], " \t"), strings.TrimLeft(line[j+len(word):], " \t")
		if i = j + len(word); left != "" && !strings.HasSuffix(left, ",") && len(left) == j || right != "" && right[0] != ',' && right[0] != '\\' && right[0] != '#' {
			continue // a part of something longer
		}
		switch rest, ok := strings.CutPrefix(right, ","); {
		case ok:
			line = line[:j] + strings.TrimLeft(rest, " \t")
		case strings.HasSuffix(left, ","):
			line = strings.TrimRight(left[:len(left)-1], " \t")
			if right != "" {
				line += " " + right
			}
		default:
			line = line[:j] + right
		}
		i = min(j, len(line))
	}
}

// dropWord takes a word out of a line, wherever it is before a comment, with the blank before it.
func dropWord(line, word string) string {
	code, comment := line, ""
	if i := strings.IndexByte(line, '#'); i >= 0 {
		code, comment = line[:i], line[i:]
	}
	blank := func(s string, i int) bool { return i < 0 || i >= len(s) || strings.IndexByte(" \t\r\f\v", s[i]) >= 0 }
	for i := 0; ; {
		j := strings.Index(code[i:], word)
		if j < 0 {
			return code + comment
		}
		j += i
		if end := j + len(word); blank(code, j-1) && blank(code, end) {
			code, i = code[:max(0, j-1)]+code[end:], max(0, j-1)
		} else {
			i = end
		}
	}
}
