// SPDX-License-Identifier: Apache-2.0

// Command logbench writes the same events through backstay's audit log, rsyslog and journald, one after the other, in one
// directory, and prints a Markdown table: events a second and bytes the kernel counts as written to the disk for each event
// (write_bytes of /proc/PID/io). It needs root, the Debian packages rsyslog and systemd, and a directory on a real disk: on
// tmpfs nothing is written. It starts daemons of its own; those of the machine are left alone.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/spool"
)

func main() {
	n := flag.Int("n", 10000, "events")
	dir := flag.String("dir", ".", "directory on the disk to be measured")
	flag.Parse()
	if err := run(*dir, *n); err != nil {
		fmt.Fprintln(os.Stderr, "logbench:", err)
		os.Exit(1)
	}
}

func run(dir string, n int) error {
	work, err := os.MkdirTemp(dir, "logbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if work, err = filepath.Abs(work); err != nil {
		return err
	}
	var leaf []byte
	fmt.Println("| log | durable | events | events/s | written per event | file per event |\n|---|---|---|---|---|---|")
	for _, store := range []string{"bolt", "segments"} {
		for _, batch := range []int{64, 1} {
			events := n
			if batch == 1 {
				events = n / 10
			}
			r, err := ours(filepath.Join(work, fmt.Sprintf("%s%d", store, batch)), store, events, batch)
			if err != nil {
				return fmt.Errorf("backstay with %s: %w", store, err)
			}
			r.print()
			leaf = r.sample
		}
	}
	for _, sync := range []bool{true, false} {
		r, err := rsyslog(work, leaf, n, sync)
		if err != nil {
			return fmt.Errorf("rsyslog: %w", err)
		}
		r.print()
	}
	r, err := journald(work, leaf, n)
	if err != nil {
		return fmt.Errorf("journald: %w", err)
	}
	r.print()
	return nil
}

// result is one row.
type result struct {
	name, durable string
	events        int
	took          time.Duration
	written, file int64
	sample        []byte // one record
}

func (r result) print() {
	fmt.Printf("| %s | %s | %d | %.0f | %d B | %d B |\n", r.name, r.durable, r.events,
		float64(r.events)/r.took.Seconds(), r.written/int64(r.events), r.file/int64(r.events))
}

// event is an ordinary one, with the fields a device fills in.
func event(i int) logging.Event {
	e := logging.NewEvent("exec", slog.String("path", fmt.Sprintf("/usr/libexec/acme/worker-%d", i%17)), slog.Int("pid", 1000+i),
		slog.Int("ppid", 812), slog.Int("uid", 33), slog.String("source", "exec"))
	e.BootID, e.Firmware, e.Device = "6d1f2b7e-0c0f-4a57-9e0d-4f4f0a1b2c3d", "2.4.1", "acme-cam-v2"
	e.Monotonic = time.Duration(i) * 31 * time.Millisecond
	return e
}

// ours appends in groups of batch, each durable before the next begins.
func ours(dir, store string, n, batch int) (result, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return result{}, err
	}
	l, err := spool.Open(spool.Config{Dir: dir, Key: key, Capacity: 64 << 20, Store: store})
	if err != nil {
		return result{}, err
	}
	defer l.Close()
	ctx := context.Background()
	before, began := writtenBy(os.Getpid()), time.Now()
	for i := 0; i < n; i += batch {
		var events []logging.Event
		for j := i; j < min(i+batch, n); j++ {
			events = append(events, event(j))
		}
		if err := errors.Join(l.Append(ctx, events...), l.Flush(ctx)); err != nil {
			return result{}, err
		}
	}
	r := result{name: "backstay, " + store, durable: fmt.Sprintf("every %d", batch), events: n, took: time.Since(began)}
	r.written, r.file = writtenBy(os.Getpid())-before, size(dir)
	b, err := l.Batch(ctx, 1)
	if err != nil || len(b.Leaves) == 0 {
		return r, fmt.Errorf("read back: %w", err)
	}
	r.sample = b.Leaves[0].Body
	return r, nil
}

// writtenBy is what the kernel counts as written to disks by a process, dirtied pages of mapped files included.
func writtenBy(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// size is the space a directory takes on the disk.
func size(dir string) (n int64) {
	_ = filepath.Walk(dir, func(_ string, fi os.FileInfo, err error) error {
		if err != nil || fi.IsDir() {
			return err
		}
		n += fi.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	return n
}

const rsyslogConf = `module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="%[1]s/rsyslog.sock" RateLimit.Interval="0" UseSysTimeStamp="on")
template(name="raw" type="string" string="%%timestamp:::date-rfc3339%% %%hostname%% %%syslogtag%%%%msg%%\n")
$MaxMessageSize 16k
action(type="omfile" file="%[1]s/rsyslog.out" template="raw" sync="%[2]s")
`

func rsyslog(work string, leaf []byte, n int, sync bool) (result, error) {
	r := result{name: "rsyslog, sync off", durable: "when the kernel likes", events: n}
	setting := "off"
	if sync {
		r.name, r.durable, setting = "rsyslog, sync on", "each message", "on"
	}
	conf, out, socket := filepath.Join(work, "rsyslog.conf"), filepath.Join(work, "rsyslog.out"), filepath.Join(work, "rsyslog.sock")
	os.Remove(out)
	if err := os.WriteFile(conf, fmt.Appendf(nil, rsyslogConf, work, setting), 0o600); err != nil {
		return r, err
	}
	cmd := exec.Command("rsyslogd", "-n", "-f", conf, "-i", filepath.Join(work, "rsyslog.pid"))
	cmd.Stderr = os.Stderr
	stop, err := started(cmd, socket)
	if err != nil {
		return r, err
	}
	defer stop()
	before, began := writtenBy(cmd.Process.Pid), time.Now()
	if err := send(socket, leaf, n); err != nil {
		return r, err
	}
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		fi, err := os.Stat(out)
		if err == nil && fi.Size() >= int64(n*len(leaf)) {
			if b, err := os.ReadFile(out); err == nil && bytes.Count(b, []byte("\n")) >= n {
				break
			}
		}
		if time.Now().After(deadline) {
			return r, errors.New("not everything arrived in five minutes")
		}
	}
	r.took = time.Since(began)
	r.written, r.file = writtenBy(cmd.Process.Pid)-before, size(out)
	return r, nil
}

// journald runs in mounts of its own: an empty /run and the work directory as /var/log/journal.
func journald(work string, leaf []byte, n int) (result, error) {
	r := result{name: "journald, persistent", durable: "5 min after a message", events: n}
	store := filepath.Join(work, "journal")
	script := `set -e
mount --make-rprivate /; mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/journal /var/log/journal; mount --bind "$0" /var/log/journal
touch /run/systemd/journal/flushed # otherwise it stays in memory until the init system says that /var is there
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nForwardToSyslog=no\nReadKMsg=no\nAudit=no\n' > /run/journald.conf
mount --bind /run/journald.conf /etc/systemd/journald.conf
exec /lib/systemd/systemd-journald`
	cmd := exec.Command("sh", "-c", script, store)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := os.MkdirAll(store, 0o755); err != nil {
		return r, err
	}
	// The path leads through the name space of the daemon, so it is known once the daemon runs.
	if err := cmd.Start(); err != nil {
		return r, err
	}
	inside := fmt.Sprintf("/proc/%d/root/run/systemd/journal/", cmd.Process.Pid)
	stop, err := waitFor(cmd, inside+"dev-log")
	if err != nil {
		return r, err
	}
	defer stop()
	// Its socket is there before its files are.
	if err := send(inside+"dev-log", leaf, 1); err != nil {
		return r, err
	}
	if err := synced(cmd, inside); err != nil {
		return r, err
	}
	before, files, began := writtenBy(cmd.Process.Pid), size(store), time.Now()
	if err := send(inside+"dev-log", leaf, n); err != nil {
		return r, err
	}
	if err := synced(cmd, inside); err != nil {
		return r, err
	}
	r.took = time.Since(began)
	r.written, r.file = writtenBy(cmd.Process.Pid)-before, size(store)-files
	return r, nil
}

// synced asks journald to bring everything to the disk and waits until it says so (journald.service(8), SIGRTMIN+1).
func synced(cmd *exec.Cmd, inside string) error {
	at := func() time.Time {
		fi, err := os.Stat(inside + "synced")
		if err != nil {
			return time.Time{}
		}
		return fi.ModTime()
	}
	before := at()
	time.Sleep(20 * time.Millisecond)
	if err := cmd.Process.Signal(syscall.Signal(35)); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); at().Equal(before); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("it does not answer the request to write to disk")
		}
	}
	return nil
}

// send writes n syslog lines to a datagram socket. A full socket blocks, so that nothing is lost.
func send(socket string, leaf []byte, n int) error {
	c, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range n {
		if _, err := fmt.Fprintf(c, "<14>Nov 25 10:00:00 acme[%d]: %s", 100+i, leaf); err != nil {
			return err
		}
	}
	return nil
}

func started(cmd *exec.Cmd, socket string) (stop func(), err error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return waitFor(cmd, socket)
}

func waitFor(cmd *exec.Cmd, socket string) (stop func(), err error) {
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			return stop, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	return nil, fmt.Errorf("%s does not appear", socket)
}
