// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/testdata/testneed"
)

// TestMain lets the test start itself as another user: see writeAs.
func TestMain(m *testing.M) {
	if path := os.Getenv("INTAKE_WRITE_TO"); path != "" {
		c, err := net.Dial("unixpacket", path)
		if err == nil {
			c.Write([]byte(`{"code":"hello"}`)) //nolint:errcheck // who is turned away finds out by the answer
			b := make([]byte, 4096)
			n := 0
			if n, err = c.Read(b); err == nil {
				fmt.Print(string(b[:n]))
			}
		}
		if err != nil {
			fmt.Print(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// book holds what was recorded. fail is what the log answers.
type book struct {
	mu      sync.Mutex
	events  []logging.Event
	durable []bool
	fail    error
}

func (b *book) record(_ context.Context, e logging.Event, durable bool) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return 0, b.fail
	}
	b.events, b.durable = append(b.events, e), append(b.durable, durable)
	if !durable {
		return 0, nil
	}
	return uint64(len(b.events)), nil
}

func (b *book) emit(code string, attrs ...slog.Attr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events, b.durable = append(b.events, logging.NewEvent(code, attrs...)), append(b.durable, false)
}

func (b *book) of(code string) (out []logging.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if e.Code == code {
			out = append(out, e)
		}
	}
	return out
}

// short returns a directory whose names fit into a socket's address.
func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func serve(t *testing.T, cfg Config) (*Server, string) {
	t.Helper()
	path := filepath.Join(short(t), "a")
	l, err := Listen(path, cfg.AllowUIDs, cfg.AllowGIDs)
	if err != nil {
		t.Fatal(err)
	}
	s := New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, path
}

func say(t *testing.T, c net.Conn, msg string) answer {
	t.Helper()
	if _, err := c.Write([]byte(msg)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(b[:n], &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil { // an answer that does not come fails the test
		t.Fatal(err)
	}
	return c
}

var fast = logging.Rate{Per: 1000, Burst: 1000}

func TestAProgramsEventNamesItsSender(t *testing.T) {
	var b book
	_, path := serve(t, Config{Rate: fast, Record: b.record, Emit: b.emit})
	c := dial(t, path)
	a := say(t, c, `{"code":"door.opened","severity":"medium","outcome":"failure","message":"front","session":"s1","attrs":{"door":"front","n":3,"forced":true},"durable":true}`)
	if !a.OK || !a.Durable || a.Size != 1 {
		t.Fatalf("answer %+v", a)
	}
	if a := say(t, c, `{"code":"app.second"}`); !a.OK || a.Durable || a.Size != 0 {
		t.Fatalf("answer %+v", a)
	}
	e := b.of("app.door.opened")[0]
	if e.Severity != logging.SeverityMedium || e.Outcome != logging.OutcomeFailure || e.Message != "front" || e.Session != "s1" {
		t.Errorf("event %+v", e)
	}
	exe, _ := os.Executable()
	for name, want := range map[string]string{"uid": strconv.Itoa(os.Geteuid()), "pid": strconv.Itoa(os.Getpid()), "exe": exe,
		"source": SourceSocket, "door": "front", "n": "3", "forced": "true"} {
		if got, _ := e.Attr(name); got != want && (name != "exe" || os.Getenv("BACKSTAY_TEST_EMULATED") == "") {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if e.Subject != fmt.Sprintf("uid %d", os.Geteuid()) {
		t.Errorf("subject %q", e.Subject)
	}
	if len(b.of("app.second")) != 1 {
		t.Error("a code that has the prefix already is not kept as it is")
	}
}

// TestNoProgramForgesTheAgent holds the namespace: whatever a message says, its code is below "app.", and what the kernel says
// about the sender cannot be said by the sender.
func TestNoProgramForgesTheAgent(t *testing.T) {
	for _, msg := range []string{`{"code":"update.installed"}`, `{"code":"log.gap"}`, `{"code":"auth.ok"}`, `{"code":"a"}`} {
		m, err := parseMessage([]byte(msg))
		if err != nil || !strings.HasPrefix(m.event.Code, Prefix) {
			t.Errorf("%s: code %q, %v", msg, m.event.Code, err)
		}
	}
	for _, msg := range []string{
		`{"code":"app.syslog"}`, `{"code":"syslog"}`, `{"code":"x","attrs":{"uid":0}}`, `{"code":"x","attrs":{"exe":"/sbin/init"}}`,
		`{"code":"x","attrs":{"source":"kaudit"}}`, `{"code":"x","subject":"root"}`, `{"code":"x","rule":"r"}`,
	} {
		if m, err := parseMessage([]byte(msg)); err == nil {
			t.Errorf("%s was taken as %+v", msg, m.event)
		}
	}
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	for _, tt := range []struct{ msg, why string }{
		{``, "not a JSON object"}, {`[]`, "not an object"}, {`"x"`, "not an object"}, {`{"code":"x"`, "not JSON"}, {`{}`, "code is missing"},
		{`{"code":"x"} {}`, "something follows"}, {`{"code":"x","code":"y"}`, "given twice"}, {`{"code":"x","Code":"y"}`, "unknown key"},
		{`{"code":null}`, "not text"}, {`{"code":"X"}`, "lower-case"}, {`{"code":"x y"}`, "lower-case"}, {`{"code":""}`, "lower-case"},
		{`{"code":"` + strings.Repeat("x", maxCode+1) + `"}`, "at most"}, {`{"code":"x","severity":"awful"}`, "severity"},
		{`{"code":"x","outcome":"maybe"}`, "outcome"}, {`{"code":"x","durable":1}`, "durable"}, {`{"code":"x","attrs":[]}`, "not an object"},
		{`{"code":"x","attrs":{"a":{}}}`, "not text, a number"}, {`{"code":"x","attrs":{"a":null}}`, "not text, a number"},
		{`{"code":"x","attrs":{"a":"1","a":"2"}}`, "given twice"}, {`{"code":"x","attrs":{"A":"1"}}`, "lower-case"},
		{"{\"code\":\"x\",\"message\":\"\xff\"}", "UTF-8"}, {`{"code":"x","message":"` + strings.Repeat("y", MaxMessage) + `"}`, "longer"},
		{`{"code":"x","attrs":{` + manyAttrs(maxAttrs+1) + `}}`, "more than"},
	} {
		_, err := parseMessage([]byte(tt.msg))
		if err == nil || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%.60s: %v, want %q", tt.msg, err, tt.why)
		}
	}
	var b book
	s, path := serve(t, Config{Rate: fast, Record: b.record, Emit: b.emit})
	c := dial(t, path)
	if a := say(t, c, `{"code":"x","message":"`+strings.Repeat("y", 2*MaxMessage)+`"}`); a.Error != "malformed" {
		t.Errorf("a message that is too long: %+v", a)
	}
	if a := say(t, c, `{"code":"x"}`); !a.OK || len(b.events) != 1 || s.Counts() != (Counts{Accepted: 1, Refused: 1}) {
		t.Errorf("after it: %+v, %+v", a, s.Counts())
	}
}

func manyAttrs(n int) string {
	var parts []string
	for i := range n {
		parts = append(parts, fmt.Sprintf(`"a%d":1`, i))
	}
	return strings.Join(parts, ",")
}

// writeAs runs this test as another user, which writes one message and prints the answer.
func writeAs(t *testing.T, uid, gid uint32, path string) string {
	t.Helper()
	testneed.Native(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(short(t), "self") // where go test builds it nobody else may go
	if err := os.WriteFile(self, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "INTAKE_WRITE_TO="+path)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, NoSetGroups: true}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func TestOnlyAllowedUsersWrite(t *testing.T) {
	var b book
	_, path := serve(t, Config{AllowUIDs: []int{4711}, AllowGIDs: []int{815}, Rate: fast, Record: b.record, Emit: b.emit})
	if out := writeAs(t, 4711, 4711, path); !strings.Contains(out, `"ok":true`) {
		t.Errorf("an allowed user: %s", out)
	}
	if out := writeAs(t, 4712, 815, path); !strings.Contains(out, `"ok":true`) {
		t.Errorf("an allowed group: %s", out)
	}
	for range 3 {
		if out := writeAs(t, 4713, 4713, path); !strings.Contains(out, `"error":"not-allowed"`) {
			t.Errorf("another user: %s", out)
		}
	}
	if len(b.of("app.hello")) != 2 || len(b.of(CodeRefused)) != 1 {
		t.Errorf("events %+v", b.events)
	}
	if e := b.of(CodeRefused)[0]; e.Subject != "uid 4713" {
		t.Errorf("refusal %+v", e)
	}
	_, closed := serve(t, Config{AllowUIDs: []int{0}, Rate: fast, Record: b.record, Emit: b.emit})
	if out := writeAs(t, 4711, 4711, closed); !strings.Contains(out, "permission denied") {
		t.Errorf("a socket for root alone let another user connect: %s", out)
	}
}

func TestListenRefusesUnsafePlaces(t *testing.T) {
	dir := short(t)
	for _, tt := range []struct {
		mode os.FileMode
		uids []int
		why  string
	}{{0o777, nil, "writable by others"}, {0o700, []int{4711}, "does not let others through"}} {
		if err := os.Chmod(dir, tt.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(filepath.Join(dir, "s"), tt.uids, nil); !errors.Is(err, logging.ErrSetup) || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("mode %04o: %v", tt.mode, err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, nil, nil); err == nil {
		t.Error("a file was replaced by the socket")
	}
	if _, err := ListenSyslog(file, true); err == nil {
		t.Error("a file was replaced by the syslog socket")
	}
	l, err := Listen(filepath.Join(dir, "s"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(filepath.Join(dir, "s"), nil, nil); err == nil {
		t.Error("a live socket was replaced")
	}
}

// TestALiveSyslogSocketStays holds that a syslog daemon keeps its socket unless the configuration gives it away.
func TestALiveSyslogSocketStays(t *testing.T) {
	path := filepath.Join(short(t), "log")
	other, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := ListenSyslog(path, false); !errors.Is(err, logging.ErrSetup) {
		t.Fatalf("a live socket was taken: %v", err)
	}
	link := filepath.Join(filepath.Dir(path), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenSyslog(link, false); err == nil {
		t.Fatal("a link to one was taken")
	}
	c, err := ListenSyslog(path, true)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if c, err = ListenSyslog(path, false); err != nil {
		t.Fatalf("one that a stopped agent left behind: %v", err)
	}
	c.Close()
}

func TestRatesAreOfEachUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b book
		s := New(Config{Rate: logging.Rate{Per: 2, Burst: 20}, Level: 7, Record: b.record, Emit: b.emit})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.Account(ctx); close(done) }()
		for range 500 {
			s.take(ctx, []byte(`{"code":"flood"}`), Peer{UID: 1})
			s.line(ctx, ParseLine([]byte("<13>x: y")), Peer{UID: 1})
		}
		if n := len(b.of("app.flood")); n != 20 {
			t.Errorf("%d events of the flood, want the burst of 20", n)
		}
		if a := s.take(ctx, []byte(`{"code":"calm"}`), Peer{UID: 2}); !a.OK {
			t.Errorf("another user pays for it: %+v", a)
		}
		for range 20 { // each of these is a write to flash
			s.take(ctx, []byte(`{"code":"dear","durable":true}`), Peer{UID: 3})
			s.take(ctx, []byte(`{"code":"dear","severity":"critical"}`), Peer{UID: 3})
		}
		if n := len(b.of("app.dear")); n != 2 {
			t.Errorf("%d events that must be durable at once, want 2", n)
		}
		time.Sleep(61 * time.Second)
		cancel()
		<-done
		sup := map[string]uint64{}
		for _, e := range b.of("log.suppressed") {
			n, _ := e.Attr("count")
			uid, _ := e.Attr("uid")
			source, _ := e.Attr("source")
			k, _ := strconv.ParseUint(n, 10, 64)
			sup[source+" "+uid] += k
		}
		if sup["intake 1"] != 480 || sup["syslog 1"] != 480 || sup["intake 3"] != 38 || sup["intake 2"] != 0 {
			t.Errorf("suppressed %v", sup)
		}
	})
}

func TestUserIDsRememberedAreBounded(t *testing.T) {
	a := newAccounts(logging.Rate{Per: 1, Burst: 2})
	for uid := range 10000 {
		a.allow(uid, false)
	}
	if len(a.byUID) > maxUIDs+1 {
		t.Errorf("%d accounts, want at most %d", len(a.byUID), maxUIDs+1)
	}
	if a.allow(99999, false) {
		t.Error("one more user id has a bucket of its own")
	}
}

func TestAFullLogSaysSo(t *testing.T) {
	b := book{fail: fmt.Errorf("no room: %w", logging.ErrRetry)}
	s := New(Config{Rate: fast, Record: b.record, Emit: b.emit})
	if a := s.take(t.Context(), []byte(`{"code":"x"}`), Peer{}); a.Error != "full" || a.OK {
		t.Errorf("answer %+v", a)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	var b book
	_, path := serve(t, Config{Rate: fast, Record: b.record, Emit: b.emit})
	var open []net.Conn
	for range maxPerUID {
		c := dial(t, path)
		if a := say(t, c, `{"code":"x"}`); !a.OK {
			t.Fatalf("connection %d: %+v", len(open), a)
		}
		open = append(open, c)
	}
	c := dial(t, path)
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), `"busy"`) {
		t.Fatalf("one more: %q, %v", buf[:n], err)
	}
	open[0].Close()
	for range 100 {
		c := dial(t, path)
		c.Write([]byte(`{"code":"x"}`)) //nolint:errcheck // the answer tells
		if n, _ := c.Read(buf); strings.Contains(string(buf[:n]), `"ok":true`) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the place of a closed connection is not given to another")
}

func TestAReaderThatDoesNotReadIsCutOff(t *testing.T) {
	var b book
	_, path := serve(t, Config{Rate: logging.Rate{Per: 1e6, Burst: 1e6}, Record: b.record, Emit: b.emit})
	c := dial(t, path)
	if err := c.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := c.Write([]byte(`{"code":"x"}`)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is still open")
			}
			return
		}
	}
}

func TestSyslogLinesOverTheSocket(t *testing.T) {
	path := filepath.Join(short(t), "log")
	c, err := ListenSyslog(path, false)
	if err != nil {
		t.Fatal(err)
	}
	var b book
	login := func(app, message string) (string, []slog.Attr, bool) {
		user, ok := strings.CutPrefix(message, "Accepted password for ")
		return "auth.ok", []slog.Attr{slog.String("subject", user)}, ok && app == "sshd"
	}
	s := New(Config{Rate: fast, Level: 5, Record: b.record, Emit: b.emit, Login: login})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.ServeSyslog(ctx, c) }()
	out, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for _, line := range []string{"<11>Nov 25 17:20:00 app[7]: it broke", "<15>app: chatter", "<39>sshd: chatter about security", "<38>sshd[3]: Accepted password for root"} {
		if _, err := out.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	for range 200 {
		if got := s.Counts(); got.Accepted == 3 && got.Below == 1 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	lines := b.of(CodeSyslog)
	if len(lines) < 2 || lines[0].Message != "it broke" || lines[0].Severity != logging.SeverityMedium {
		t.Fatalf("lines %+v", b.events)
	}
	for name, want := range map[string]string{"uid": strconv.Itoa(os.Geteuid()), "pid": strconv.Itoa(os.Getpid()), "app": "app", "app_pid": "7", "facility": "user"} {
		if got, _ := lines[0].Attr(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if n := len(b.of("auth.ok")); os.Geteuid() == 0 && n != 1 || os.Geteuid() != 0 && n != 0 {
		t.Errorf("%d logins, by user id %d", n, os.Geteuid())
	}
}

// TestOnlyRootReportsLogins holds that a line cannot make a login of itself.
func TestOnlyRootReportsLogins(t *testing.T) {
	var b book
	login := func(string, string) (string, []slog.Attr, bool) { return "auth.ok", nil, true }
	s := New(Config{Rate: fast, Level: 7, Record: b.record, Emit: b.emit, Login: login})
	line := ParseLine([]byte("<38>sshd[3]: Accepted password for root"))
	s.line(t.Context(), line, Peer{UID: 1000})
	s.line(t.Context(), line, Peer{UID: 0})
	if len(b.of("auth.ok")) != 1 || len(b.of(CodeSyslog)) != 1 {
		t.Errorf("events %+v", b.events)
	}
}

func TestParseLine(t *testing.T) {
	sd := func(kv ...string) (out []logging.Attr) {
		for i := 0; i < len(kv); i += 2 {
			out = append(out, logging.Attr{Name: kv[i], Value: kv[i+1]})
		}
		return out
	}
	for _, tt := range []struct {
		in   string
		want Line
	}{
		{"<38>Nov  5 17:20:00 sshd[12]: Accepted\n", Line{Facility: 4, Severity: 6, App: "sshd", PID: "12", Message: "Accepted"}},
		{"<13>root: a: b", Line{Facility: 1, Severity: 5, App: "root", Message: "a: b"}},
		{"<13>no tag here: b", Line{Facility: 1, Severity: 5, Message: "no tag here: b"}},
		{"plain", Line{Facility: 1, Severity: 5, Message: "plain"}},
		{"<192>x: y", Line{Facility: 1, Severity: 5, Message: "<192>x: y"}},
		{"<191>x: y", Line{Facility: 23, Severity: 7, App: "x", Message: "y"}},
		{"<>x", Line{Facility: 1, Severity: 5, Message: "<>x"}},
		{"", Line{Facility: 1, Severity: 5}},
		{"<13>x[1: y", Line{Facility: 1, Severity: 5, Message: "x[1: y"}},
		{`<165>1 2026-11-25T17:20:00Z host app 8710 ID47 [a@1 k="v" q="say \"x\" \\ \]"][b@2 z=""] ` + "\ufeffhello",
			Line{Facility: 20, Severity: 5, App: "app", PID: "8710", MsgID: "ID47", Data: sd("a@1.k", "v", "a@1.q", `say "x" \ ]`, "b@2.z", ""), Message: "hello"}},
		{"<34>1 - - - - - - only", Line{Facility: 4, Severity: 2, Message: "only"}},
		{"<34>1 - - - - - -", Line{Facility: 4, Severity: 2}},
		{`<34>1 - - su - - [broken k="v] text`, Line{Facility: 4, Severity: 2, App: "su", Message: `[broken k="v] text`, Cut: true}},
		{"<34>1 is the number: x", Line{Facility: 4, Severity: 2, Message: "1 is the number: x"}},
	} {
		if got := ParseLine([]byte(tt.in)); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q:\n got %+v\nwant %+v", tt.in, got, tt.want)
		}
	}
	many := ParseLine([]byte("<34>1 - - - - - " + strings.Repeat(`[e k="`+strings.Repeat("v", 100)+`"]`, 40) + " m"))
	if len(many.Data) != maxElements || !many.Cut || many.Message != "m" {
		t.Errorf("%d params of 40 elements, cut %v, message %q", len(many.Data), many.Cut, many.Message)
	}
}

// TestLoggerOfTheSystem lets the real programs write.
func TestLoggerOfTheSystem(t *testing.T) {
	testneed.Native(t)
	logger := testneed.Program(t, "logger", "bsdutils")
	path := filepath.Join(short(t), "log")
	c, err := ListenSyslog(path, false)
	if err != nil {
		t.Fatal(err)
	}
	var b book
	s := New(Config{Rate: fast, Level: 7, Record: b.record, Emit: b.emit})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.ServeSyslog(ctx, c) }()
	for _, args := range [][]string{{"-t", "door", "-p", "daemon.err", "left open"},
		{"--rfc5424", "-t", "door", "--msgid", "M1", "--sd-id", "acme@32473", "--sd-param", `door="front"`, "forced"}} {
		if out, err := exec.Command(logger, append([]string{"--socket", path, "--socket-errors=on"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("logger %v: %v\n%s", args, err, out)
		}
	}
	for range 200 {
		if s.Counts().Accepted == 2 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	<-done
	got := b.of(CodeSyslog)
	if len(got) != 2 {
		t.Fatalf("events %+v", b.events)
	}
	if v, _ := got[0].Attr("app"); v != "door" || got[0].Message != "left open" || got[0].Severity != logging.SeverityMedium {
		t.Errorf("first %+v", got[0])
	}
	if v, _ := got[1].Attr("data.acme@32473.door"); v != "front" || got[1].Message != "forced" {
		t.Errorf("second %+v", got[1])
	}
}

func TestMemoryOfAFloodIsBounded(t *testing.T) {
	var b book
	s := New(Config{Rate: logging.Rate{Per: 1, Burst: 1}, Record: b.record, Emit: b.emit})
	line := []byte("<34>1 - - - - - " + strings.Repeat(`[e k="`+strings.Repeat("v", 100)+`"]`, 60) + " m")
	run := func(n int) {
		for i := range n {
			s.line(t.Context(), ParseLine(line), Peer{UID: i})
			s.take(t.Context(), []byte(`{"code":"x"}`), Peer{UID: i})
		}
	}
	run(1000)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	run(5000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 128<<10 {
		t.Errorf("5000 more user ids cost %d bytes", grown)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"code":"door.opened","severity":"medium","message":"m","attrs":{"a":1,"b":true},"durable":true}`))
	f.Add([]byte(`{"code":"app.syslog"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		if !strings.HasPrefix(m.event.Code, Prefix) || m.event.Code == CodeSyslog || len(m.event.Code) > len(Prefix)+maxCode || len(m.event.Attrs) > maxAttrs {
			t.Errorf("%q made %+v", b, m.event)
		}
		for _, a := range m.event.Attrs {
			for _, r := range reserved {
				if a.Name == r {
					t.Errorf("%q says %s", b, r)
				}
			}
		}
	})
}

func FuzzLine(f *testing.F) {
	f.Add([]byte("<38>Nov  5 17:20:00 sshd[12]: Accepted\n"))
	f.Add([]byte(`<165>1 2026-11-25T17:20:00Z host app 8710 ID47 [a@1 k="v" q="say \"x\" \\ \]"][b@2 z=""] hello`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := ParseLine(b)
		if l.Facility < 0 || l.Facility > 23 || l.Severity < 0 || l.Severity > 7 || len(l.App) > maxApp || len(l.PID) > 16 || len(l.Data) > maxParams || len(l.Message) > len(b) {
			t.Errorf("%q made %+v", b, l)
		}
		l.event(Peer{})
	})
}
