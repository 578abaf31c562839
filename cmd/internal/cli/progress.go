// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"time"
)

// progressEvery is how often the line is rewritten on a terminal.
const progressEvery = 250 * time.Millisecond

// Progress shows how far a long action is, on Stderr: on a terminal one line rewritten four times a second, otherwise a line
// each ten percent (or each ten seconds when the total is not known). It shows nothing in JSON mode. Not safe for concurrent
// use; it starts nothing, so it is only as lively as the calls to Set.
type Progress struct {
	w        io.Writer
	terminal bool
	what     string
	total    int64 // bytes; 0 when not known
	start    time.Time
	shown    time.Time
	base     int64 // where the first Set began: a resumed transfer does not count what was there
	begun    bool
	tenth    int64
	width    int
}

// Progress starts showing the progress of what; total is its size in bytes, 0 when not known.
func (e *Env) Progress(what string, total int64) *Progress {
	p := &Progress{w: e.Stderr, terminal: Terminal(e.Stderr), what: clean(what), total: total, start: time.Now(), tenth: -1}
	if e.JSON {
		p.w = io.Discard
	}
	return p
}

// Set says that n bytes are done.
func (p *Progress) Set(n int64) {
	now := time.Now()
	if !p.begun {
		p.begun, p.base = true, n
	}
	if p.terminal {
		if now.Sub(p.shown) >= progressEvery {
			p.shown = now
			p.rewrite(p.line(n, now))
		}
		return
	}
	if p.total <= 0 {
		if now.Sub(p.shown) >= 10*time.Second {
			p.shown = now
			fmt.Fprintln(p.w, p.line(n, now))
		}
		return
	}
	if tenth := int64(float64(n) / float64(p.total) * 10); tenth > p.tenth {
		p.tenth = tenth
		fmt.Fprintln(p.w, p.line(n, now))
	}
}

// Done ends the progress and leaves the last state on the screen.
func (p *Progress) Done(n int64) {
	if p.terminal {
		p.rewrite(p.line(n, time.Now()))
		fmt.Fprintln(p.w)
	}
}

// rewrite replaces the line on a terminal, blanking what the last one had more.
func (p *Progress) rewrite(line string) {
	fmt.Fprintf(p.w, "\r%-*s", p.width, line)
	p.width = len(line)
}

// line is the state as text: "download 2.5.0  41 %  12.3/30.1 MB  1.9 MB/s  9 s left".
func (p *Progress) line(n int64, now time.Time) string {
	rate := 0.0
	if s := now.Sub(p.start).Seconds(); s > 0 {
		rate = float64(n-p.base) / s
	}
	if p.total <= 0 {
		return fmt.Sprintf("%s  %s  %s/s", p.what, Bytes(n), Bytes(int64(rate)))
	}
	text := fmt.Sprintf("%s  %2d %%  %s/%s", p.what, int64(float64(n)/float64(p.total)*100), Bytes(n), Bytes(p.total))
	if rate > 0 && n < p.total {
		left := time.Duration(float64(p.total-n) / rate * float64(time.Second))
		text += fmt.Sprintf("  %s/s  %s left", Bytes(int64(rate)), Duration(left))
	}
	return text
}

// Bytes is a size for people, in powers of 1000: "12.3 MB".
func Bytes(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for f >= 999.95 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	return fmt.Sprintf("%.1f %cB", f, units[i])
}

// Duration is a length of time for people, two units at most: "9 s", "12 min", "5 h 48 min", "61 days".
func Duration(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int64(d/time.Second))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int64(d/time.Minute))
	case d < 48*time.Hour:
		if m := int64(d % time.Hour / time.Minute); m != 0 {
			return fmt.Sprintf("%d h %d min", int64(d/time.Hour), m)
		}
		return fmt.Sprintf("%d h", int64(d/time.Hour))
	}
	return fmt.Sprintf("%d days", int64(d/(24*time.Hour)))
}
