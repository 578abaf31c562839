// SPDX-License-Identifier: Apache-2.0

package update

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Window is a time of day on some days of the week, written as in a configuration: "Mon-Fri 22:00-04:00", "Sat,Sun 01:00-05:00",
// or "02:00-04:00" for every day. One whose end is not after its begin goes on into the next day; the day is the one it begins
// on. The last minute of a day is written 24:00.
type Window struct {
	days     [7]bool // by time.Weekday
	from, to int     // minutes since midnight; to may be 24*60
	text     string
}

const dayMinutes = 24 * 60

// weekdays returns the names in the order of time.Weekday.
func weekdays() [7]string { return [7]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

// ParseWindow reads a window.
func ParseWindow(s string) (Window, error) {
	w := Window{text: s}
	days, hours, ok := strings.Cut(s, " ")
	if !ok {
		days, hours = "", s
	}
	if err := w.parseDays(days); err != nil {
		return Window{}, fmt.Errorf("window %q: %w", s, err)
	}
	from, to, ok := strings.Cut(hours, "-")
	if !ok {
		return Window{}, fmt.Errorf("window %q: no time such as 22:00-04:00", s)
	}
	var err error
	if w.from, err = minutes(from); err == nil {
		w.to, err = minutes(to)
	}
	switch {
	case err != nil:
		return Window{}, fmt.Errorf("window %q: %w", s, err)
	case w.from == dayMinutes || w.from == w.to:
		return Window{}, fmt.Errorf("window %q: it never opens; a whole day is 00:00-24:00", s)
	}
	return w, nil
}

func (w *Window) parseDays(s string) error {
	if s == "" {
		w.days = [7]bool{true, true, true, true, true, true, true}
		return nil
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, b := weekday(first), weekday(last)
		if a < 0 || b < 0 {
			return fmt.Errorf("%q is not a day or a range of days such as Mon-Fri", part)
		}
		for d := a; ; d = (d + 1) % 7 {
			w.days[d] = true
			if d == b {
				break
			}
		}
	}
	return nil
}

func weekday(s string) int {
	for i, name := range weekdays() {
		if strings.EqualFold(s, name) {
			return i
		}
	}
	return -1
}

// minutes reads HH:MM.
func minutes(s string) (int, error) {
	if len(s) != 5 || s[2] != ':' {
		return 0, fmt.Errorf("%q is not a time such as 22:00", s)
	}
	n := 0
	for _, i := range []int{0, 1, 3, 4} {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("%q is not a time such as 22:00", s)
		}
	}
	h, m := int(s[0]-'0')*10+int(s[1]-'0'), int(s[3]-'0')*10+int(s[4]-'0')
	if n = h*60 + m; h > 24 || m > 59 || n > dayMinutes {
		return 0, fmt.Errorf("%q is not a time of day", s)
	}
	return n, nil
}

// String returns what was parsed.
func (w Window) String() string { return w.text }

// span returns when the window that begins on the day of t, moved by days, opens and closes; false if none begins then.
func (w Window) span(t time.Time, days int) (open, shut time.Time, ok bool) {
	y, m, d := t.Date()
	open = time.Date(y, m, d+days, 0, w.from, 0, 0, t.Location())
	if !w.days[time.Date(y, m, d+days, 12, 0, 0, 0, t.Location()).Weekday()] {
		return open, open, false
	}
	if w.to <= w.from {
		days++
	}
	return open, time.Date(y, m, d+days, 0, w.to, 0, 0, t.Location()), true
}

// Until returns when the window that is open at t closes; false when it is shut. The zone of t decides what time of day it is.
func (w Window) Until(t time.Time) (time.Time, bool) {
	for days := -1; days <= 0; days++ {
		if open, shut, ok := w.span(t, days); ok && !t.Before(open) && t.Before(shut) {
			return shut, true
		}
	}
	return time.Time{}, false
}

// Next returns when the window opens next after t.
func (w Window) Next(t time.Time) time.Time {
	for days := range 9 { // a week, and a day that a change of the clock may skip
		if open, _, ok := w.span(t, days); ok && open.After(t) {
			return open
		}
	}
	return time.Time{}
}

// ParseZone reads where a window's times are: "UTC", "local" for the device's own setting, or an offset such as "+02:00".
func ParseZone(s string) (*time.Location, error) {
	switch s {
	case "UTC", "":
		return time.UTC, nil
	case "local":
		return time.Local, nil
	}
	t, err := time.Parse("-07:00", s)
	if err != nil {
		return nil, errors.New(`neither "UTC", "local" nor an offset such as "+02:00"`)
	}
	_, offset := t.Zone()
	if offset < -14*3600 || offset > 14*3600 {
		return nil, errors.New("no place on earth is that far from UTC")
	}
	return time.FixedZone(s, offset), nil
}
