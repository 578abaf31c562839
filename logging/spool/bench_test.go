// SPDX-License-Identifier: Apache-2.0

package spool_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

// written returns the bytes this process has handed to write calls. It counts what goes to flash here: nothing else in the
// benchmark writes.
func written(t testing.TB) int64 {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "wchar: "); ok {
			v, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Skip("no wchar in /proc/self/io")
	return 0
}

// BenchmarkAppend measures events per second and bytes written per event, by events per commit.
func BenchmarkAppend(b *testing.B) {
	for _, store := range []string{spool.StoreBolt, spool.StoreSegments} {
		for _, batch := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("%s/%d", store, batch), func(b *testing.B) { benchmarkAppend(b, batch) })
		}
	}
}

func benchmarkAppend(b *testing.B, batch int) {
	bn := newBench(b)
	bn.cfg.Capacity, bn.cfg.Ring = 256<<20, 1<<20
	l := bn.open()
	events := make([]logging.Event, batch)
	for i := range events {
		events[i] = ordinary(i)
	}
	n := 0
	before := written(b)
	for b.Loop() {
		if err := l.Append(b.Context(), events...); err != nil {
			b.Fatal(err)
		}
		if err := l.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		n += batch
	}
	b.ReportMetric(float64(written(b)-before)/float64(n), "written-B/event")
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(fileSize(b, bn))/float64(n), "file-B/event")
}

// TestBytesWrittenPerEvent holds the promise of how much flash is written for an ordinary event (an OCSF record is about 700
// bytes of it) and for one that is committed alone.
func TestBytesWrittenPerEvent(t *testing.T) { eachStore(t, testBytesWrittenPerEvent) }

func testBytesWrittenPerEvent(t *testing.T) {
	b := newBench(t)
	l := b.open()
	fillLog(t, l, 640)
	start := written(t)
	fillLog(t, l, 1280)
	ordinaryBytes := (written(t) - start) / 1280
	start = written(t)
	for i := range 50 {
		if err := l.Append(t.Context(), critical(i)); err != nil {
			t.Fatal(err)
		}
	}
	criticalBytes := (written(t) - start) / 50
	t.Logf("%d bytes written per ordinary event, %d per critical one, %d in the file", ordinaryBytes, criticalBytes, fileSize(t, b)/1971)
	most, mostCritical := int64(1500), int64(22<<10)
	if b.cfg.Store == spool.StoreSegments {
		most, mostCritical = 1<<10, 2<<10
	}
	if ordinaryBytes > most || criticalBytes > mostCritical {
		t.Error("more than promised")
	}
}
