// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
)

// maxEarly bounds the events that wait for the log to be opened: the first start makes the key that signs it.
const maxEarly = 64

// recorder turns what the parts emit into records of the audit log. Its emit is what every part gets; it may be called from
// several goroutines, before the log is open too.
type recorder struct {
	clock    *Clock
	logger   *slog.Logger
	bootID   string
	device   string // hardware name
	firmware string
	hwAddr   string   // of its first network interface
	config   string   // version of the configuration: why sources record what they do
	private  []string // attributes that may be about a person, besides those logging knows

	mu    sync.Mutex
	log   appender // nil until start
	early []logging.Event
}

// appender is the audit log as the recorder sees it.
type appender interface {
	Append(ctx context.Context, events ...logging.Event) error
}

func (r *recorder) emit(code string, attrs ...slog.Attr) {
	r.logger.LogAttrs(context.Background(), slog.LevelInfo, code, attrs...)
	e := r.stamp(logging.NewEvent(code, attrs...))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log == nil {
		if len(r.early) < maxEarly {
			r.early = append(r.early, e)
		}
		return
	}
	r.append(e)
}

// append keeps order: it is called with the lock held. An event that cannot be written is counted by the log, which reports
// the gap itself as soon as it can.
func (r *recorder) append(events ...logging.Event) {
	if err := r.log.Append(context.Background(), events...); err != nil {
		r.logger.Error("append to audit log", "err", err)
	}
}

// start gives the recorder its log and writes what has waited for it.
func (r *recorder) start(log appender) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = log
	if len(r.early) > 0 {
		r.append(r.early...)
		r.early = nil
	}
}

// stamp adds what only the composition knows. It implements spool.Config.Stamp.
func (r *recorder) stamp(e logging.Event) logging.Event {
	if e.Time.IsZero() || e.Quality == "" {
		e.Time, e.Quality = r.clock.Read()
		if e.Quality == logging.QualityNTP {
			e.TimeError = clockError()
		}
	}
	if e.Monotonic == 0 {
		e.Monotonic = sinceBoot()
	}
	if e.BootID == "" { // otherwise it is from a run before the daemon, perhaps before a reboot
		e.BootID, e.Device, e.Firmware, e.HWAddr = r.bootID, r.device, r.firmware, r.hwAddr
	}
	// What a source saw is recorded because the configuration has the source on.
	if source, ok := e.Attr("source"); ok && e.Rule == "" {
		e.Rule, e.Policy = "source/"+source, cmp.Or(e.Policy, r.config)
	}
	return e.Seal(r.private)
}

// hardwareAddress returns the address of the first network interface that has one of its own; "" when none has.
func hardwareAddress() string {
	list, _ := net.Interfaces()
	for _, i := range list {
		if len(i.HardwareAddr) == 6 && i.Flags&net.FlagLoopback == 0 {
			return i.HardwareAddr.String()
		}
	}
	return ""
}

// sinceBoot is the time since the kernel started, sleep included.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// bootID tells one boot from the next. A boot loader or a supervisor that knows better than the kernel, because the kernel
// below it goes on running, names the boot on the command line: backstay.boot=ID.
func bootID(cmdline string) string {
	b, _ := os.ReadFile(cmdline)
	for word := range strings.FieldsSeq(string(b)) {
		if id, ok := strings.CutPrefix(word, "backstay.boot="); ok {
			return id
		}
	}
	b, _ = os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// osVersion reads VERSION_ID of an os-release file, "" when it has none.
func osVersion(path string) string {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VERSION_ID="); ok {
			return strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	return ""
}
