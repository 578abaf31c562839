// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// fileLines returns the line of every key of a file that is known to be good JSON.
func fileLines(b []byte) map[string]int {
	l := &liner{b: b, dec: json.NewDecoder(bytes.NewReader(b)), at: map[string]int{}, line: 1}
	l.value("")
	return l.at
}

type liner struct {
	b    []byte
	dec  *json.Decoder
	at   map[string]int
	line int
	done int64 // the lines before this offset are counted
}

// token reads the next token and keeps the line it ends on.
func (l *liner) token() json.Token {
	tok, err := l.dec.Token()
	if err != nil {
		return nil
	}
	end := l.dec.InputOffset()
	l.line += bytes.Count(l.b[l.done:end], []byte("\n"))
	l.done = end
	return tok
}

func (l *liner) value(path string) {
	switch l.token() {
	case json.Delim('{'):
		for l.dec.More() {
			key, ok := l.token().(string)
			if !ok {
				return
			}
			l.at[join(path, key)] = l.line
			l.value(join(path, key))
		}
		l.token()
	case json.Delim('['):
		for i := 0; l.dec.More(); i++ {
			at := path + "[" + strconv.Itoa(i) + "]"
			l.value(at)
			if _, ok := l.at[at]; !ok {
				l.at[at] = l.line
			}
		}
		l.token()
	}
}

// Line returns the line of the file that gives a key, or else the section it belongs to; 0 if there is none.
func (c *Config) Line(key string) int { return lineOf(c.lines, key) }

func lineOf(lines map[string]int, key string) int {
	for key != "" {
		if n, ok := lines[key]; ok {
			return n
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return 0
}
