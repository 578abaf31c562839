// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/testdata/testneed"
)

const namespaceEnv = "BACKSTAY_TEST_NAMESPACE"

// inNamespace runs the test again, alone, in a mount namespace of its own, and reports whether this is that run.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not root: cannot make a mount namespace")
	}
	if os.Getenv(namespaceEnv) == t.Name() {
		must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), namespaceEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
		t.Skip("cannot make a mount namespace here")
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// readOnlyRoot makes a small root whose file system is read only, with a writable /state, and goes into it for good.
func readOnlyRoot(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	for _, d := range []string{"etc", "state", "tmp"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "etc/app.conf"), []byte("# app\ndebug=1\n"), 0o640))
	must(t, os.WriteFile(filepath.Join(dir, "etc/secret"), []byte("x\n"), 0o666))
	must(t, os.Chmod(filepath.Join(dir, "etc/secret"), 0o666))
	must(t, os.Chown(filepath.Join(dir, "etc/app.conf"), 7, 8))
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	for _, d := range []string{"state", "tmp"} {
		must(t, unix.Mount("tmpfs", filepath.Join(dir, d), "tmpfs", 0, ""))
	}
	must(t, unix.Chroot(dir))
	must(t, os.Chdir("/"))
	t.Setenv("TMPDIR", "/tmp")
}

const readOnlyPolicy = `{"schema":1,"id":"p","serial":1,"rules":[
 {"id":"app.debug","title":"T","why":"W","severity":"high","kind":"file-line","target":"/etc/app.conf","want":{"key":"debug","sep":"=","one_of":["0"],"set":"0"},"fix":"fix"},
 {"id":"app.secret","title":"T","why":"W","severity":"high","kind":"file-mode","target":"/etc/secret","want":{"max":"0644"},"fix":"fix"}]}`

func readOnlyEngine(t *testing.T, how configs.ReadOnly) *configs.Engine {
	t.Helper()
	p, err := configs.ParsePolicy([]byte(readOnlyPolicy))
	must(t, err)
	root, err := os.OpenRoot("/")
	must(t, err)
	return &configs.Engine{Root: root, Live: true, Policy: p, StateDir: "/state/configs", Now: func() time.Time { return start }, ReadOnly: how}
}

func wantFile(t *testing.T, name, text string, mode os.FileMode, uid uint32) {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	fi, err := os.Stat(name)
	must(t, err)
	if st := fi.Sys().(*syscall.Stat_t); string(b) != text || fi.Mode().Perm() != mode || st.Uid != uid {
		t.Errorf("%s is %q, %v of %d, want %q, %v of %d", name, b, fi.Mode(), st.Uid, text, mode, uid)
	}
}

func TestReadOnlyRootIsMountedOver(t *testing.T) {
	testneed.Native(t)
	if !inNamespace(t) {
		return
	}
	readOnlyRoot(t)
	e := readOnlyEngine(t, configs.BindReadOnly)
	r := apply(t, e, false)
	for _, f := range r.Findings {
		if f.Result != configs.Fixed && f.Result != configs.RebootNeeded {
			t.Fatalf("%s is %s: %s", f.Rule, f.Result, f.Reason)
		}
	}
	wantFile(t, "/etc/app.conf", "# app\ndebug=0\n", 0o640, 7)
	wantFile(t, "/etc/secret", "x\n", 0o644, 0)
	state := snapshot(t, "/state")
	if r := apply(t, e, false); r.Run != "" || r.Counts[configs.Pass] != 2 {
		t.Errorf("a second run: %v", r.Counts)
	}
	sameTree(t, state, snapshot(t, "/state"), "second run")

	// Undo uncovers the files of the image.
	if _, err := e.Undo(context.Background()); err != nil {
		t.Fatal(err)
	}
	wantFile(t, "/etc/app.conf", "# app\ndebug=1\n", 0o640, 7)
	wantFile(t, "/etc/secret", "x\n", 0o666, 0)
	for _, name := range []string{"/etc/app.conf", "/etc/secret"} {
		if err := unix.Unmount(name, 0); err == nil {
			t.Errorf("something is still mounted over %s", name)
		}
	}
	if b, err := os.ReadFile("/state/configs/binds.json"); err != nil || strings.TrimSpace(string(b)) != "[]" {
		t.Errorf("copies that are listed: %s %v", b, err)
	}
	if names, err := os.ReadDir("/state/configs/bind"); err != nil || len(names) != 0 {
		t.Errorf("copies that are left: %v %v", names, err)
	}
	apply(t, e, false, "app.debug", "app.secret")

	reboot := func() *configs.Engine {
		for _, f := range []string{"/etc/app.conf", "/etc/secret"} {
			unix.Unmount(f, 0) //nolint:errcheck // it may not be mounted over
		}
		e := readOnlyEngine(t, configs.BindReadOnly)
		must(t, e.Rebind(context.Background()))
		return e
	}
	// After a boot the copies are there again before anything is repaired, once.
	if r := check(t, reboot()); r.Counts[configs.Pass] != 2 {
		t.Errorf("after a boot: %v", r.Counts)
	}
	must(t, readOnlyEngine(t, configs.BindReadOnly).Rebind(context.Background()))
	must(t, unix.Unmount("/etc/app.conf", 0))
	wantFile(t, "/etc/app.conf", "# app\ndebug=1\n", 0o640, 7)

	// An update brings another file: the copy of the old one is not put over it.
	must(t, unix.Unmount("/etc/secret", 0))
	must(t, unix.Mount("", "/", "", unix.MS_REMOUNT, ""))
	must(t, os.WriteFile("/etc/app.conf", []byte("# app 2\ndebug=1\nnew=1\n"), 0o640))
	must(t, unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	e = reboot()
	wantFile(t, "/etc/app.conf", "# app 2\ndebug=1\nnew=1\n", 0o640, 7)
	wantFile(t, "/etc/secret", "x\n", 0o644, 0)
	apply(t, e, false)
	wantFile(t, "/etc/app.conf", "# app 2\ndebug=0\nnew=1\n", 0o640, 7)

	if _, err := e.Undo(context.Background()); err != nil {
		t.Fatal(err)
	}
	wantFile(t, "/etc/app.conf", "# app 2\ndebug=1\nnew=1\n", 0o640, 7)
	wantFile(t, "/etc/secret", "x\n", 0o644, 0)
}

func TestReadOnlyRootIsReported(t *testing.T) {
	testneed.Native(t)
	if !inNamespace(t) {
		return
	}
	readOnlyRoot(t)
	e := readOnlyEngine(t, configs.ReportReadOnly)
	for _, f := range apply(t, e, false).Findings {
		if f.Result != configs.FixFailed || !strings.Contains(f.Reason, "fix it in the image") {
			t.Errorf("%s is %s: %s", f.Rule, f.Result, f.Reason)
		}
	}
	wantFile(t, "/etc/app.conf", "# app\ndebug=1\n", 0o640, 7)
	// A copy that somebody put into the list does not name a file elsewhere.
	e = readOnlyEngine(t, configs.BindReadOnly)
	sum := sha256.Sum256([]byte("0666 0 0\nx\n"))
	original := hex.EncodeToString(sum[:])
	must(t, os.WriteFile("/state/evil", []byte("evil\n"), 0o600))
	must(t, os.WriteFile("/state/configs/binds.json", []byte(`[{"path":"\"/etc/secret\"","file":"../../evil","original":"`+original+`"},{"path":"\"/etc/app.conf\"","file":"none","original":"00"}]`), 0o600))
	must(t, e.Rebind(context.Background()))
	wantFile(t, "/etc/secret", "x\n", 0o666, 0)
	if b, err := os.ReadFile("/state/configs/binds.json"); err != nil || strings.TrimSpace(string(b)) != "null" {
		t.Errorf("copies that are listed: %s %v", b, err)
	}
}
