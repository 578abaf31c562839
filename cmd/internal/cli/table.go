// SPDX-License-Identifier: Apache-2.0

package cli

// Aligned text. No boxes; two spaces between columns; no space at the end of a line. Colour is only ever given to status
// words, and only on a terminal whose owner did not set NO_COLOR. The standard tabwriter counts colour codes as letters, so
// columns are measured here.

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Table collects rows and prints them aligned. Cells are made safe for a terminal.
type Table struct {
	w      io.Writer
	colour bool
	rows   [][]string
}

// Table starts a table on Stdout; header may be empty.
func (e *Env) Table(header ...string) *Table {
	t := &Table{w: e.Stdout, colour: e.Colour()}
	if len(header) > 0 {
		t.rows = append(t.rows, header)
	}
	return t
}

// Colour reports whether Stdout may be coloured.
func (e *Env) Colour() bool {
	return !e.JSON && e.Getenv != nil && e.Getenv("NO_COLOR") == "" && e.Getenv("TERM") != "dumb" && Terminal(e.Stdout)
}

// Row adds a row. Each cell is formatted with %v.
func (t *Table) Row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = clean(fmt.Sprint(c))
	}
	t.rows = append(t.rows, row)
}

// Flush prints the table and empties it.
func (t *Table) Flush() error {
	var width []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		for i, cell := range row {
			b.WriteString(t.paint(cell))
			if rest := strings.Join(row[i+1:], ""); rest == "" {
				break
			}
			b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteByte('\n')
	}
	t.rows = nil
	_, err := io.WriteString(t.w, b.String())
	return err
}

// paint colours a cell that is exactly a status word.
func (t *Table) paint(cell string) string {
	if !t.colour {
		return cell
	}
	code := ""
	switch cell {
	case "ok", "pass", "good", "fixed", "confirmed", "verified", "enrolled":
		code = "32"
	case "fail", "failed", "bad", "refused", "fix-failed", "reverted", "revoked":
		code = "31"
	case "unknown", "waived", "drift", "waiting", "contested", "reboot-needed", "expired":
		code = "33"
	default:
		return cell
	}
	return "\x1b[" + code + "m" + cell + "\x1b[0m"
}

// Len is the number of rows, the header included.
func (t *Table) Len() int { return len(t.rows) }
