// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/testdata/testneed"
)

func TestParseAudit(t *testing.T) {
	id, text, ok := parseAudit([]byte("audit(1364481363.043:24287): pid=1 msg='op=x'\x1dUID=\"root\"\x00"))
	if want := (auditID{1364481363043, 24287}); !ok || id != want || text != "pid=1 msg='op=x'" {
		t.Errorf("%+v %q %v", id, text, ok)
	}
	for _, bad := range []string{"", "audit(", "audit(1.2:3)", "audit(1.234:x): a=b", "audit(x.234:1): a=b", "audit(1.23:1): a", "audit(-1.234:1): a", "pid=1"} {
		if id, text, ok := parseAudit([]byte(bad)); ok {
			t.Errorf("%q was taken: %+v %q", bad, id, text)
		}
	}
}

func TestAuditFields(t *testing.T) {
	var f auditFields
	f.parse(`avc:  denied  { read } for  pid=77 comm="a b" name=2F746D702F61206220 empty= q="" odd=ABC none=(null) who=? last="no end`)
	if f.word("pid") != "77" {
		t.Errorf("pid %q", f.word("pid"))
	}
	for key, want := range map[string]string{"comm": "a b", "name": "/tmp/a b ", "empty": "", "q": "", "odd": "ABC", "none": "", "who": "", "last": "", "nope": ""} {
		if got := f.get(key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	// What a program says is not what the kernel says, whatever it looks like.
	f.parse(`pid=77 uid=1000 msg='op=login' uid=0 pid=1 acct="root" res=success'`)
	if f.word("uid") != "1000" || f.word("pid") != "77" || f.get("acct") != "" || !strings.HasPrefix(f.msg, "op=login' uid=0") {
		t.Errorf("%q %q %q msg %q", f.word("uid"), f.word("pid"), f.get("acct"), f.msg)
	}
	f.parse(strings.Repeat("a=b ", 1000) + "c=d")
	if f.n != maxAuditFields || f.get("c") != "" {
		t.Errorf("%d fields", f.n)
	}
	f.parse(`key=` + strings.Repeat("41", 4000) + ` s="` + strings.Repeat("s", 4000) + `" two=666F6F01626172`)
	if len(f.get("key")) != maxAuditValue || len(f.get("s")) != maxAuditValue || f.get("two") != "foo,bar" {
		t.Errorf("%d %d %q", len(f.get("key")), len(f.get("s")), f.get("two"))
	}
}

func TestParseAuditStatus(t *testing.T) {
	b := native(t, "00000000"+"01000000"+"01000000"+"2c010000"+"00000000"+"40000000"+"07000000"+"00000000"+"7f000000"+"983a0000"+"00000000",
		"00000000"+"00000001"+"00000001"+"0000012c"+"00000000"+"00000040"+"00000007"+"00000000"+"0000007f"+"00003a98"+"00000000")
	if s, ok := parseAuditStatus(b); !ok || s != (auditStatus{1, 300, 7, 15000}) {
		t.Errorf("%+v %v", s, ok)
	}
	if s, ok := parseAuditStatus(b[:32]); !ok || s != (auditStatus{1, 300, 7, 0}) { // before Linux 3.16
		t.Errorf("%+v %v", s, ok)
	}
	if _, ok := parseAuditStatus(b[:31]); ok {
		t.Error("31 bytes were taken")
	}
}

func FuzzAudit(f *testing.F) {
	for _, r := range auditGolden {
		f.Add(r.typ, []byte(r.text))
	}
	f.Fuzz(func(t *testing.T, typ uint16, text []byte) {
		var rec recorded
		w := &kauditWatcher{}
		sink := testSink(&rec)
		w.take(message{typ: typ, body: append([]byte("audit(1.234:5): "), text...)}, sink)
		w.take(message{typ: auditSyscall, body: append([]byte("audit(1.234:5): "), text...)}, sink)
		w.take(message{typ: typ, body: text}, sink)
		w.take(message{typ: auditEOE, body: []byte("audit(1.234:5): ")}, sink)
		w.flush(time.Now().Add(auditWait), sink)
		if len(rec.list) > 3 || len(w.events) != 0 {
			t.Errorf("%d events, %d pending", len(rec.list), len(w.events))
		}
		for _, e := range rec.list {
			if len(e.Attrs) > logging.MaxAttrs {
				t.Errorf("%d attributes", len(e.Attrs))
			}
		}
		if s, ok := parseAuditStatus(text); ok && len(text) < 40 && s.wait != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// auditGolden are records as kernels and programs write them.
var auditGolden = [...]struct {
	typ  uint16
	text string
}{
	{1112, `pid=812 uid=0 auid=1000 ses=7 subj=unconfined msg='op=login id=1000 exe="/usr/sbin/sshd" hostname=10.0.0.9 addr=10.0.0.9 terminal=/dev/pts/0 res=success'`},
	{1112, `pid=813 uid=0 auid=4294967295 ses=4294967295 msg='op=login acct=28696E76616C6964207573657229 exe="/usr/sbin/sshd" hostname=? addr=10.0.0.9 terminal=ssh res=failed'`},
	{1106, `pid=812 uid=0 auid=1000 ses=7 msg='op=PAM:session_close grantors=pam_unix acct="admin" exe="/usr/sbin/sshd" hostname=10.0.0.9 addr=10.0.0.9 terminal=ssh res=success'`},
	{1101, `pid=812 uid=0 auid=1000 ses=7 msg='op=PAM:accounting acct="admin" exe="/usr/sbin/sshd" hostname=? addr=? terminal=ssh res=success'`},
	{1114, `pid=900 uid=0 auid=1000 ses=7 msg='op=adding user acct="eve" exe="/usr/sbin/useradd" hostname=? addr=? terminal=pts/0 res=success'`},
	{1201, `op=terminate auid=0 uid=0 ses=7 pid=1 subj=unconfined res=success`},
	{1305, `op=set audit_enabled=0 old=1 auid=1000 ses=7 subj=unconfined res=1`},
	{1701, `auid=1000 uid=1000 gid=1000 ses=1 subj=unconfined pid=31 comm="crash" exe="/tmp/crash" sig=11 res=1`},
	{1326, `auid=1000 uid=1000 gid=1000 ses=1 subj=unconfined pid=32 comm="x" exe="/tmp/x" sig=31 arch=c000003e syscall=41 compat=0 ip=0x7f code=0x80000000`},
	{1400, `avc:  denied  { read write } for  pid=33 comm="httpd" name="shadow" dev="mmcblk0p2" ino=12 scontext=system_u:system_r:httpd_t:s0 tcontext=system_u:object_r:shadow_t:s0 tclass=file permissive=0`},
	{1400, `avc:  granted  { setenforce } for  pid=33 comm="setenforce" scontext=a tcontext=b tclass=security`},
	{1400, `apparmor="DENIED" operation="open" profile="/usr/bin/evince" name="/etc/shadow" pid=34 comm="evince" requested_mask="r" denied_mask="r" fsuid=1000 ouid=0`},
	{1404, `enforcing=0 old_enforcing=1 auid=1000 ses=7 enabled=1 old-enabled=1 lsm=selinux res=1`},
	{1800, `pid=35 uid=0 auid=0 ses=1 op=appraise_data cause=invalid-signature comm="bash" name="/usr/bin/evil" dev="sda1" ino=9 res=0`},
	{1330, `name="evil"`},
	{1300, `arch=c000003e syscall=257 success=no exit=-13 a0=ffffff9c a1=7ffd a2=0 a3=0 items=1 ppid=1 pid=36 auid=1000 uid=1000 gid=1000 euid=0 tty=pts0 ses=7 comm="cat" exe="/bin/cat" key="shadow"`},
	{1302, `item=0 name="/etc/shadow" inode=99 dev=b3:02 mode=0100600 ouid=0 ogid=0 nametype=NORMAL`},
	{1302, `item=0 name="/etc/" inode=98 dev=b3:02 mode=040755 ouid=0 ogid=0 nametype=PARENT cap_fp=0`},
	{1309, `argc=2 a0="cat" a1="--password=hunter2"`},
}

func TestAuditRecordsBecomeEvents(t *testing.T) {
	want := [...]string{
		"auth.ok pid=812 uid=0 auid=1000 exe=/usr/sbin/sshd session=7 outcome=success",
		"auth.fail pid=813 uid=0 exe=/usr/sbin/sshd subject=(invalid user) source_address=10.0.0.9 outcome=failure",
		"auth.logoff pid=812 uid=0 auid=1000 exe=/usr/sbin/sshd subject=admin session=7 outcome=success",
		"",
		"account.change pid=900 uid=0 auid=1000 exe=/usr/sbin/useradd subject=eve session=7 outcome=success",
		"kernel.audit-config pid=1 uid=0 auid=0 session=7 outcome=success",
		"kernel.audit-config auid=1000 setting=audit_enabled value=0 value_before=1 session=7 outcome=success",
		"kernel.audit pid=31 uid=1000 auid=1000 exe=/tmp/crash signal=11 session=1 outcome=unknown",
		"kernel.audit pid=32 uid=1000 auid=1000 exe=/tmp/x signal=31 syscall=41 session=1 outcome=unknown",
		"kernel.audit pid=33 name=shadow tclass=file permission=read write outcome=unknown",
		"",
		"kernel.audit pid=34 name=/etc/shadow profile=/usr/bin/evince requested=r apparmor=DENIED outcome=unknown",
		"kernel.audit auid=1000 enforcing=0 session=7 severity=high outcome=success",
		"kernel.audit pid=35 uid=0 auid=0 name=/usr/bin/evil cause=invalid-signature session=1 outcome=failure",
		"module.load name=evil outcome=unknown",
		"kernel.audit pid=36 uid=1000 auid=1000 exe=/bin/cat audit_key=shadow syscall=257 severity=low session=7 outcome=failure",
		"", "", "",
	}
	for i, g := range auditGolden {
		var rec recorded
		w := &kauditWatcher{}
		sink := testSink(&rec)
		w.take(message{typ: g.typ, body: []byte("audit(1364481363.007:1): " + g.text)}, sink)
		w.flush(time.Now().Add(auditWait), sink)
		got := ""
		for _, e := range rec.list {
			got += e.Code
			for _, field := range strings.Fields(want[i]) {
				name, _, ok := strings.Cut(field, "=")
				v, _ := e.Attr(name)
				switch name {
				case "subject":
					v = e.Subject
				case "session":
					v = e.Session
				case "outcome":
					v = e.Outcome.String()
				case "severity":
					v = e.Severity.String()
				}
				if ok {
					got += " " + name + "=" + v
				}
			}
			if v, ok := e.Attr("hostname"); ok {
				t.Errorf("where somebody comes from is recorded in clear: %s", v)
			}
			if id, _ := e.Attr("audit_id"); id != "1364481363.007:1" {
				t.Errorf("%s: audit_id %q", g.text, id)
			}
		}
		if got != want[i] {
			t.Errorf("%d %s:\n got %s\nwant %s", g.typ, g.text, got, want[i])
		}
	}
}

func TestAuditEventIsGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorded
		w := &kauditWatcher{}
		sink := testSink(&rec)
		take := func(serial int, typ uint16, text string) {
			w.take(message{typ: typ, body: fmt.Appendf(nil, "audit(1.000:%d): %s", serial, text)}, sink)
		}
		call := auditGolden[15].text
		// Two events at once, their records mixed. The keyed one has a path; the other is a module that goes.
		take(1, auditSyscall, call)
		take(2, auditSyscall, strings.NewReplacer("syscall=257", fmt.Sprint("syscall=", unix.SYS_DELETE_MODULE), `key="shadow"`, "key=(null)", "success=no", "success=yes").Replace(call))
		take(1, auditPath, auditGolden[17].text)
		take(2, auditKernModule, `name="evil"`)
		take(1, auditPath, auditGolden[16].text)
		take(1, 1309, auditGolden[18].text)
		take(2, auditEOE, "")
		await(t, &rec, "module.unload", "name", "evil", "exe", "/bin/cat", "pid", "36", "auid", "1000")
		take(1, auditEOE, "")
		e := await(t, &rec, "kernel.audit", "audit_key", "shadow", "path", "/etc/shadow")
		if s := fmt.Sprintf("%+v", e); strings.Contains(s, "hunter2") {
			t.Errorf("an argument was recorded: %s", s)
		}
		// A system call nobody asked for is no event, nor does it stay.
		take(3, auditSyscall, strings.Replace(call, `key="shadow"`, "key=(null)", 1))
		take(3, auditEOE, "")
		if len(rec.list) != 2 || len(w.events) != 0 {
			t.Errorf("%d events, %d pending", len(rec.list), len(w.events))
		}
		// A denial without a system call waits a second.
		take(4, auditAVC, auditGolden[9].text)
		if w.flush(time.Now(), sink); len(rec.list) != 2 {
			t.Error("it was told at once")
		}
		time.Sleep(auditWait)
		if w.flush(time.Now(), sink); len(rec.list) != 3 {
			t.Error("it was never told")
		}
	})
}

func TestAuditFloodIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorded
		w := &kauditWatcher{}
		sink := &Sink{name: "kernel-audit", emit: rec.emit, limit: newLimiter(kauditKind().Rate)}
		long := `apparmor="DENIED" name="` + strings.Repeat("x", 8000) + `"`
		for i := range 5000 {
			body := []byte("audit(1.000:" + strconv.Itoa(i) + "): " + long)
			for _, typ := range []uint16{auditSyscall, auditAVC, auditAVC, auditAVC, auditAVC, auditAVC, auditPath} {
				w.take(message{typ: typ, body: body}, sink)
			}
		}
		w.take(message{typ: 1305, body: []byte("audit(1.000:9999): op=set audit_enabled=0 old=1 res=1")}, sink)
		held := 0
		for _, e := range append(w.events, w.free...) {
			held += cap(e.syscall) + cap(e.path)
			for _, m := range e.mains {
				held += len(m.text)
			}
		}
		w.flush(time.Now().Add(auditWait), sink)
		if n := len(rec.of("kernel.audit")); n > 200 || len(rec.of("kernel.audit-config")) != 1 || held > 128<<10 {
			t.Errorf("%d events, %d changes of audit, %d bytes held", n, len(rec.of("kernel.audit-config")), held)
		}
	})
}

// The kernel counts a record as lost that no audit daemon took, although we got it.
func TestAuditLossWithoutDaemon(t *testing.T) {
	for _, tc := range []struct {
		pid, lost uint32
		received  uint64
		want      uint64
	}{{0, 30, 30, 0}, {0, 40, 30, 10}, {77, 40, 30, 40}, {77, 0, 30, 0}, {0, 0, 30, 0}} {
		w := &kauditWatcher{status: auditStatus{lost: 100}, received: tc.received}
		sink := testSink(&recorded{})
		w.compare(auditStatus{pid: tc.pid, lost: 100 + tc.lost}, sink)
		if sink.loss.count != tc.want || w.received != 0 || (sink.loss.times > 0) != (tc.want > 0) {
			t.Errorf("%+v: lost %d in %d reports", tc, sink.loss.count, sink.loss.times)
		}
	}
	w := &kauditWatcher{status: auditStatus{lost: 100}}
	sink := testSink(&recorded{})
	if w.compare(auditStatus{pid: 1, lost: 5}, sink); sink.loss.times != 0 { // somebody reset the counter
		t.Errorf("lost %d", sink.loss.count)
	}
	var rec recorded
	sink = testSink(&rec)
	w = &kauditWatcher{}
	w.compare(auditStatus{enabled: 1}, sink)
	w.compare(auditStatus{enabled: 1}, sink)
	w.compare(auditStatus{}, sink) // of which the kernel makes a record
	if len(rec.list) != 1 || attr(t, rec.list[0], "value") != "1" || rec.list[0].Code != "kernel.audit-config" {
		t.Errorf("audit was switched on: %+v", rec.list)
	}
}

func auditSet(t *testing.T, mask, enabled uint32) {
	t.Helper()
	s := dialTest(t, unix.NETLINK_AUDIT, 0, 16<<10)
	b := make([]byte, 40)
	binary.NativeEndian.PutUint32(b, mask)
	binary.NativeEndian.PutUint32(b[4:], enabled)
	if err := s.ask(t.Context(), unix.AUDIT_SET, unix.NLM_F_ACK, b, func(message) bool { return false }); err != nil {
		t.Skipf("audit cannot be switched on: %v", err)
	}
}

// Audit is switched on for a moment where it is off, so this is a test for a machine of one's own.
func TestAuditOfThisKernel(t *testing.T) {
	testneed.Native(t)
	testneed.Long(t, "guest")
	rec := live(t, kauditKind(), &Env{})
	w, err := openKaudit(t.Context(), &Env{})
	if err != nil {
		t.Skip(err)
	}
	off := w.(*kauditWatcher).status.enabled == 0
	asks := w.(*kauditWatcher).asks
	w.Close()
	if !asks {
		t.Skip("no right to switch audit on")
	}
	if off {
		auditSet(t, 1, 1)
		defer func() {
			auditSet(t, 1, 0)
			await(t, rec, "kernel.audit-config", "setting", "audit_enabled", "value", "0", "value_before", "1")
		}()
	}
	say := dialTest(t, unix.NETLINK_AUDIT, 0, 16<<10)
	text := []byte(`op=login acct="somebody" exe="/bin/login" hostname=192.0.2.7 addr=? terminal=tty1 res=failed` + "\x00")
	if err := say.ask(t.Context(), 1112, unix.NLM_F_ACK, text, func(message) bool { return false }); err != nil {
		t.Fatal(err)
	}
	e := await(t, rec, "auth.fail", "source_address", "192.0.2.7", "pid", fmt.Sprint(os.Getpid()), "exe", "/bin/login")
	if e.Subject != "somebody" {
		t.Errorf("%+v", e)
	}
	if runtime.GOARCH == "amd64" {
		crash := filepath.Join(t.TempDir(), "crashtest")
		if err := os.WriteFile(crash, segfault(), 0o755); err != nil {
			t.Fatal(err)
		}
		exec.Command(crash).Run() //nolint:errcheck // it crashes
		await(t, rec, "kernel.audit", "record", "ANOM_ABEND", "signal", "11", "exe", crash)
	}
}
