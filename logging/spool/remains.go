// SPDX-License-Identifier: Apache-2.0

package spool

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"strconv"

	"github.com/backstay/backstay/logging"
)

// Critical events that wait in memory are also written to a device whose contents survive a restart, such as /dev/pmsg0, one
// line each: a word, the CRC-32C of the rest in hexadecimal, and the event as a record has it. When the store works again, a
// line says that all before it is in the log. Whatever else is in there, and the garbage a reset leaves, is not ours.
const (
	remainsWord  = "backstay-audit"
	remainsDone  = "restored"
	maxRemains   = 256 << 10
	remainsNoted = "kept over a restart while the audit log could not be written"
)

func remainsLine(text []byte) []byte {
	return fmt.Appendf(nil, "%s %08x %s\n", remainsWord, crc32.Checksum(text, castagnoli), text)
}

// saveCritical writes an event to the last resort while the store has failed. It is one more chance, not a promise.
func (l *Log) saveCritical(e logging.Event) {
	if l.failed.err == nil || !e.Critical() {
		return
	}
	origin := l.origin()
	origin.Epoch = max(origin.Epoch, 1) // none is known while nothing could be opened
	l.writeLastResort(logging.EncodeLeaf(origin, 0, l.cfg.Now(), e))
}

// forgetSaved notes that what was saved is in the log now.
func (l *Log) forgetSaved() { l.writeLastResort([]byte(remainsDone)) }

func (l *Log) writeLastResort(text []byte) {
	if l.cfg.LastResort == "" {
		return
	}
	f, err := os.OpenFile(l.cfg.LastResort, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	_, _ = f.Write(remainsLine(text))
	_ = f.Close()
}

// recoverRemains takes over the events that a run before this one saved and could not put into the log. The file goes once
// they are there; a power cut in between brings them twice, never not at all.
func (l *Log) recoverRemains() {
	if l.cfg.Remains == "" || l.store == nil {
		return
	}
	f, err := os.Open(l.cfg.Remains)
	if err != nil {
		return
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRemains))
	_ = f.Close() // only read
	if err != nil {
		return
	}
	events := parseRemains(data, l.signer.DeviceID())
	if len(events) == 0 {
		return
	}
	lost := 0
	for _, e := range events {
		for _, out := range l.pending.add(e) {
			l.lose(out, "not written in time")
			lost++
		}
	}
	l.notes = append(l.notes, l.event("audit.restored", slog.String("message", remainsNoted), slog.Int("count", len(events)-lost), slog.Int("lost", lost)))
	if l.commit() == nil {
		_ = os.Remove(l.cfg.Remains)
	}
}

// parseRemains returns the events of this device in bytes that may be anything.
func parseRemains(data []byte, device string) (events []logging.Event) {
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		text, err := parseRemainsLine(line)
		if err != nil {
			continue
		}
		if string(text) == remainsDone {
			events = nil
			continue
		}
		r, err := logging.DecodeLeaf(text)
		if err == nil && r.Origin.Device == device {
			events = append(events, clamp(r.Event))
		}
	}
	return events
}

var errNoRemains = errors.New("not ours")

func parseRemainsLine(line []byte) ([]byte, error) {
	i := bytes.Index(line, []byte(remainsWord+" ")) // garbage may stand before it
	if i < 0 {
		return nil, errNoRemains
	}
	sum, text, ok := bytes.Cut(line[i+len(remainsWord)+1:], []byte(" "))
	n, err := strconv.ParseUint(string(sum), 16, 32)
	if !ok || err != nil || uint32(n) != crc32.Checksum(text, castagnoli) {
		return nil, errNoRemains
	}
	return text, nil
}
