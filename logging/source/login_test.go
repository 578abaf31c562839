// SPDX-License-Identifier: Apache-2.0

package source

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/testdata/testneed"
)

// loginLines are lines as the programs write them, and what they tell.
var loginLines = []struct{ line, want string }{
	// OpenSSH 9.2, measured
	{"Nov 25 17:35:48 dev sshd[123]: Accepted publickey for root from 127.0.0.1 port 38482 ssh2: ED25519 SHA256:dDj8T3EhwDhNFNpjz51GatN9LKTtVuekuO8WOlCe7jw",
		"auth.ok subject=root source_address=127.0.0.1 port=38482 method=publickey key=SHA256:dDj8T3EhwDhNFNpjz51GatN9LKTtVuekuO8WOlCe7jw service=sshd session=sshd-123"},
	{"Nov 25 17:35:48 dev sshd[123]: Received disconnect from 127.0.0.1 port 38482:11: disconnected by user", ""},
	{"Nov 25 17:35:48 dev sshd[123]: Disconnected from user root 127.0.0.1 port 38482",
		"auth.logoff subject=root source_address=127.0.0.1 port=38482 service=sshd session=sshd-123"},
	{"Nov 25 17:35:48 dev sshd[123]: Connection closed by authenticating user root 127.0.0.1 port 38486 [preauth]", ""},
	{"2026-11-25T17:35:48.123456+00:00 dev sshd-session[124]: Failed password for root from 127.0.0.1 port 38510 ssh2",
		"auth.fail subject=root source_address=127.0.0.1 port=38510 method=password service=sshd-session session=sshd-session-124"},
	{"Nov 25 17:35:48 dev sshd[124]: Invalid user ghost from 127.0.0.1 port 38524",
		"auth.fail subject=ghost source_address=127.0.0.1 port=38524 reason=unknown user service=sshd session=sshd-124"},
	{"Nov 25 17:35:48 dev sshd[124]: Failed password for invalid user ghost from 127.0.0.1 port 38524 ssh2",
		"auth.fail subject=ghost source_address=127.0.0.1 port=38524 method=password reason=unknown user service=sshd session=sshd-124"},
	{"Nov 25 17:35:48 dev sshd[124]: Failed none for root from 127.0.0.1 port 38524 ssh2", ""},
	{"Nov 25 17:35:48 dev sshd[124]: Accepted password for alice from 2001:db8::7 port 1 ssh2",
		"auth.ok subject=alice source_address=2001:db8::7 port=1 method=password service=sshd session=sshd-124"},
	// a user name that tries to pass for another address, measured
	{"Nov 25 17:35:48 dev sshd[125]: Invalid user no from 9.9.9.9 port 1 ssh2 from 127.0.0.1 port 38494",
		"auth.fail subject=no from 9.9.9.9 port 1 ssh2 source_address=127.0.0.1 port=38494 reason=unknown user service=sshd session=sshd-125"},
	{"Nov 25 17:35:48 dev sshd[125]: Failed password for invalid user root from 9.9.9.9 port 1 ssh2 from 127.0.0.1 port 38494 ssh2",
		"auth.fail subject=root from 9.9.9.9 port 1 ssh2 source_address=127.0.0.1 port=38494 method=password reason=unknown user service=sshd session=sshd-125"},
	{"Nov 25 17:35:48 dev sshd[9]: pam_unix(sshd:session): session opened for user root(uid=0) by (uid=0)", ""},
	{"Nov 25 17:35:48 dev sshd[9]: pam_unix(sshd:session): session closed for user root", "auth.logoff subject=root service=sshd session=sshd-9"},
	// dropbear 2022.83 measured; OpenWrt's logread prints the time that way
	{"Wed Nov 25 17:35:57 2026 authpriv.warn dropbear[47044]: Bad password attempt for 'root' from 127.0.0.1:46204",
		"auth.fail subject=root source_address=127.0.0.1 port=46204 method=password service=dropbear session=dropbear-47044"},
	{"Nov 25 17:35:57 dev authpriv.warn dropbear[47179]: Login attempt for nonexistent user", "auth.fail reason=unknown user service=dropbear session=dropbear-47179"},
	{"Nov 25 17:35:57 dev authpriv.warn dropbear[1]: Login attempt for nonexistent user from 192.0.2.1:7",
		"auth.fail source_address=192.0.2.1 port=7 reason=unknown user service=dropbear session=dropbear-1"},
	{"Nov 25 17:35:57 dev dropbear[1]: Password auth succeeded for 'root' from 192.0.2.1:7",
		"auth.ok subject=root source_address=192.0.2.1 port=7 method=password service=dropbear session=dropbear-1"},
	{"Nov 25 17:35:57 dev dropbear[1]: Pubkey auth succeeded for 'root' with ssh-ed25519 key SHA256:abc from 2001:db8::1:7",
		"auth.ok subject=root source_address=2001:db8::1 port=7 method=publickey key=SHA256:abc service=dropbear session=dropbear-1"},
	{"Nov 25 17:35:57 dev dropbear[1]: Bad password attempt for 'x' from 9.9.9.9:1' from 192.0.2.1:7",
		"auth.fail subject=x' from 9.9.9.9:1 source_address=192.0.2.1 port=7 method=password service=dropbear session=dropbear-1"},
	{"Nov 25 17:35:57 dev dropbear[1]: Exit (root) from <192.0.2.1:7>: Disconnect received",
		"auth.logoff subject=root source_address=192.0.2.1 port=7 service=dropbear session=dropbear-1"},
	{"Nov 25 17:35:57 dev dropbear[1]: Exit before auth from <127.0.0.1:46206>: Exited normally", ""},
	// busybox, util-linux, shadow
	{"Nov 25 17:35:57 dev auth.info login[7]: root login on 'ttyS0'", "auth.ok subject=root terminal=ttyS0 service=login session=login-7"},
	{"Nov 25 17:35:57 dev auth.warn login[7]: invalid password for 'root' on 'pts/0' from '192.0.2.9'",
		"auth.fail subject=root source_address=192.0.2.9 method=password terminal=pts/0 service=login session=login-7"},
	{"Nov 25 17:35:57 dev login[7]: ROOT LOGIN ON tty1", "auth.ok subject=root terminal=tty1 service=login session=login-7"},
	{"Nov 25 17:35:57 dev login[7]: LOGIN ON tty1 BY alice", "auth.ok subject=alice terminal=tty1 service=login session=login-7"},
	{"Nov 25 17:35:57 dev login[7]: FAILED LOGIN (1) on '/dev/tty1' FOR 'root', Authentication failure",
		"auth.fail subject=root terminal=/dev/tty1 service=login session=login-7"},
	{"Nov 25 17:35:57 dev login[7]: FAILED LOGIN 2 FROM 192.0.2.3 FOR bob, User not known to the underlying authentication module",
		"auth.fail subject=bob source_address=192.0.2.3 service=login session=login-7"},
	{"Nov 25 17:35:57 dev su: + /dev/pts/0 alice:root", "auth.ok subject=root by=alice method=su terminal=/dev/pts/0 service=su"},
	{"Nov 25 17:35:57 dev su[8]: FAILED su for root by alice", "auth.fail subject=root by=alice method=su service=su session=su-8"},
	{"Nov 25 17:35:57 dev su: FAILED SU (to root) alice on pts/0", "auth.fail subject=root by=alice method=su service=su"},
	{"Nov 25 17:35:57 dev su[8]: pam_unix(su:session): session opened for user root(uid=0) by alice(uid=1000)", "auth.ok subject=root by=alice method=su service=su session=su-8"},
	{"Nov 25 17:35:57 dev sudo: pam_unix(sudo:auth): authentication failure; logname= uid=1000 euid=0 tty=/dev/pts/0 ruser=alice rhost=  user=alice",
		"auth.fail subject=alice by=alice method=sudo terminal=/dev/pts/0 service=sudo"},
	{"Nov 25 17:35:57 dev uhttpd[1]: luci: failed login on / for root from 192.168.1.2", "auth.fail subject=root source_address=192.168.1.2 method=web service=uhttpd session=uhttpd-1"},
	{"Wed Nov 25 17:35:57 2026 daemon.info uhttpd[1]: [info] luci: accepted login on / for root from 192.168.1.2",
		"auth.ok subject=root source_address=192.168.1.2 method=web service=uhttpd session=uhttpd-1"},
	// not logins
	{"Nov 25 17:35:57 dev kernel: Accepted password for root from 1.2.3.4 port 1 ssh2", ""},
	{"Nov 25 17:35:57 dev app[3]: sshd[1]: Accepted password for root from 1.2.3.4 port 1 ssh2", ""},
	{"Nov 25 17:35:57 dev CRON[3]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)", ""},
	{"Nov 25 17:35:57 dev sshd[3]: Accepted password for root", ""},
	{"Nov 25 17:35:57 dev sshd[3]: " + strings.Repeat("x", 2000), ""},
	{"", ""}, {":", ""}, {"sshd:", ""},
}

func TestLoginLines(t *testing.T) {
	for _, c := range loginLines {
		code, attrs, ok := LoginLine(c.line)
		got := ""
		if ok {
			got = code
			for _, a := range attrs {
				if a.Key != "message" {
					got += " " + a.Key + "=" + a.Value.String()
				}
			}
		}
		if got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.line, got, c.want)
		}
	}
}

func FuzzLoginLine(f *testing.F) {
	for _, c := range loginLines {
		f.Add(c.line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		code, attrs, ok := LoginLine(line)
		if !ok {
			return
		}
		if code != "auth.ok" && code != "auth.fail" && code != "auth.logoff" {
			t.Errorf("code %q", code)
		}
		for _, a := range attrs {
			if len(a.Value.String()) > maxMountText {
				t.Errorf("%s has %d bytes", a.Key, len(a.Value.String()))
			}
		}
	})
}

// utmpBytes makes a record as login programs write it.
func utmpBytes(size int, kind int16, pid int32, line, user, host string, at int64, address string) []byte {
	b := make([]byte, size)
	order := binary.NativeEndian
	order.PutUint16(b, uint16(kind))
	order.PutUint32(b[4:], uint32(pid))
	copy(b[8:40], line)
	copy(b[44:76], user)
	copy(b[76:332], host)
	where := b[348:364]
	if size == utmpLong {
		order.PutUint64(b[344:], uint64(at))
		where = b[360:376]
	} else {
		order.PutUint32(b[340:], uint32(at))
	}
	if address != "" {
		copy(where, netip.MustParseAddr(address).AsSlice())
	}
	return b
}

func TestParseUtmp(t *testing.T) {
	for _, size := range []int{utmpShort, utmpLong} {
		for _, address := range []string{"192.0.2.1", "2001:db8::1", ""} {
			r, ok := parseUtmp(utmpBytes(size, utmpUser, 42, "pts/0", "alice", "host", 1764090000, address))
			want := utmpRecord{kind: utmpUser, pid: 42, line: "pts/0", user: "alice", host: "host", at: time.Unix(1764090000, 0).UTC()}
			if address != "" {
				want.address = netip.MustParseAddr(address)
			}
			if !ok || r != want {
				t.Errorf("%d bytes: %+v, want %+v", size, r, want)
			}
		}
		if _, ok := parseUtmp(utmpBytes(size, 77, 0, "", "", "", 0, "")); ok {
			t.Error("a record of type 77")
		}
	}
	if _, ok := parseUtmp(make([]byte, 383)); ok {
		t.Error("a record of 383 bytes")
	}
	long := strings.Repeat("x", 400)
	if r, ok := parseUtmp(utmpBytes(utmpShort, utmpUser, 1, long, long, long, 1, "")); !ok || len(r.line) != 32 || len(r.user) != 32 || len(r.host) != 256 {
		t.Errorf("fields that fill their space: %+v", r)
	}
	own := utmpSize(0)
	for n, want := range map[int64]int{utmpShort: utmpShort, utmpLong: utmpLong, 5 * utmpLong: utmpLong, 7 * utmpShort: utmpShort, utmpShort * utmpLong: own, 17: own} {
		if got := utmpSize(n); got != want {
			t.Errorf("file of %d bytes: records of %d, want %d", n, got, want)
		}
	}
}

func FuzzParseUtmp(f *testing.F) {
	f.Add(utmpBytes(utmpShort, utmpUser, 42, "pts/0", "alice", "host", 1764090000, "192.0.2.1"))
	f.Add(utmpBytes(utmpLong, utmpDead, 42, "pts/0", "", "", 1764090000, "2001:db8::1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := parseUtmp(b); ok && (len(r.line) > 32 || len(r.user) > 32 || len(r.host) > 256) {
			t.Errorf("%+v", r)
		}
	})
}

func appendFile(t *testing.T, name string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func accepted(user string) []byte {
	return []byte("Nov 25 17:35:48 dev sshd[1]: Accepted password for " + user + " from 192.0.2.1 port 1 ssh2\n")
}

func TestLoginsAreFollowed(t *testing.T) {
	testneed.Native(t)
	root := tree(t, map[string]string{"var/log/auth.log": string(accepted("before the agent"))})
	env := testEnv(t, root)
	log := filepath.Join(root, "var/log/auth.log")
	w := observe(t, loginKind(), env)

	appendFile(t, log, accepted("one"))
	w.eventually(t, "auth.ok", subject("one"))

	// A line in two parts.
	half := accepted("two")
	appendFile(t, log, half[:30])
	time.Sleep(2 * loginSettle)
	appendFile(t, log, half[30:])
	w.eventually(t, "auth.ok", subject("two"))

	// Rotated: the last line of the old one, and the first of the new one.
	appendFile(t, log, accepted("three"))
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	appendFile(t, log, accepted("four"))
	w.eventually(t, "auth.ok", subject("three"))
	w.eventually(t, "auth.ok", subject("four"))

	// Emptied in place.
	if err := os.Truncate(log, 0); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * loginSettle)
	appendFile(t, log, accepted("five"))
	w.eventually(t, "auth.ok", subject("five"))

	// Login records that appear later; the same login as the log tells is one event.
	wtmp := filepath.Join(root, "var/log/wtmp")
	appendFile(t, wtmp, utmpBytes(utmpSize(0), utmpUser, 9, "pts/0", "five", "", 1764090000, "192.0.2.1"))
	appendFile(t, wtmp, utmpBytes(utmpSize(0), utmpUser, 9, "ttyS0", "six", "", 1764090000, ""))
	w.eventually(t, "auth.ok", subject("six"))
	appendFile(t, wtmp, utmpBytes(utmpSize(0), utmpDead, 9, "ttyS0", "", "", 1764090000, ""))
	w.eventually(t, "auth.logoff", subject("six"))

	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if got, want := subjects(w.of("auth.ok")), []string{"one", "two", "three", "four", "five", "six"}; !slices.Equal(got, want) {
		t.Errorf("logins %q, want %q", got, want)
	}
}

func subjects(list []logging.Event) (out []string) {
	for _, e := range list {
		out = append(out, e.Subject)
	}
	return out
}

// More in the log that was read, which is then rotated, and in the one after it.
func TestLoginsWhileDown(t *testing.T) {
	testneed.Native(t)
	root := tree(t, map[string]string{"var/log/auth.log": string(accepted("before the agent"))})
	env := testEnv(t, root)
	log := filepath.Join(root, "var/log/auth.log")
	w := observe(t, loginKind(), env)
	appendFile(t, log, accepted("one"))
	w.eventually(t, "auth.ok", subject("one"))
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	appendFile(t, log, accepted("two"))
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	appendFile(t, log, accepted("three"))
	w = observe(t, loginKind(), env)
	w.eventually(t, "auth.ok", subject("three"))
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if got, want := subjects(w.of("auth.ok")), []string{"two", "three"}; !slices.Equal(got, want) {
		t.Errorf("logins %q, want %q", got, want)
	}
}

func subject(name string) func(logging.Event) bool {
	return func(e logging.Event) bool { return e.Subject == name }
}

func TestBruteForceIsCounted(t *testing.T) {
	testneed.Native(t)
	root := tree(t, map[string]string{"var/log/messages": ""})
	w := observe(t, loginKind(), testEnv(t, root))
	var b strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&b, "Nov 25 17:35:48 dev sshd[%d]: Failed password for root from 192.0.2.%d port 1 ssh2\n", i, i%3)
	}
	appendFile(t, filepath.Join(root, "var/log/messages"), []byte(b.String()))
	w.eventually(t, "auth.fail", is("source_address", "192.0.2.2"))
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	list, total := w.of("auth.fail"), 0
	for _, e := range list {
		n := 1
		if v, ok := e.Attr("count"); ok {
			fmt.Sscan(v, &n)
		}
		total += n
	}
	if total != 3000 || len(list) != 6 {
		t.Errorf("%d failures in %d events, want 3000 in 6", total, len(list))
	}
}

func TestFollowerBounds(t *testing.T) {
	root := tree(t, map[string]string{"log": ""})
	name := filepath.Join(root, "log")
	f := &follower{path: name}
	if err := f.open(true); err != nil {
		t.Fatal(err)
	}
	defer f.close()
	long := strings.Repeat("x", 3*followChunk)
	appendFile(t, name, []byte("a\n"+long+"\nb\n"))
	var got []string
	if _, more, err := f.read(func(b []byte) { got = append(got, string(b)) }); err != nil || more {
		t.Fatal(err, more)
	}
	if !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("lines %.50q, want a and b without the long one", got)
	}
	line := strings.Repeat("y", 99) + "\n"
	appendFile(t, name, []byte(strings.Repeat(line, followBack/50)))
	n := 0
	lost, more, err := f.read(func(b []byte) { n++ })
	if err != nil || lost < followBack/2 || !more {
		t.Errorf("far behind: lost %d, more %v, %v", lost, more, err)
	}
	for more {
		if _, more, err = f.read(func(b []byte) { n++ }); err != nil {
			t.Fatal(err)
		}
	}
	if n < followBack/100-2 || n > followBack/100 {
		t.Errorf("%d lines, want about %d", n, followBack/100)
	}
}

func TestPosition(t *testing.T) {
	p := position{inode: 1 << 40, head: 1<<32 - 1, headN: 64, offset: 1 << 50}
	if got, ok := parsePosition(p.String()); !ok || got != p {
		t.Errorf("%+v", got)
	}
	for _, s := range []string{"", "1 2 3", "1 2 3 4 5", "1 4294967296 3 4", "1 2 65 4", "-1 2 3 4", "1 2 3 9223372036854775808"} {
		if p, ok := parsePosition(s); ok {
			t.Errorf("%q: %+v", s, p)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add("1 2 3 4")
	f.Fuzz(func(t *testing.T, s string) {
		if p, ok := parsePosition(s); ok && (p.headN > headBytes || p.offset < 0) {
			t.Errorf("%+v", p)
		}
	})
}
