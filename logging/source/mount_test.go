// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/testdata/testneed"
)

func TestMountsOfTheKernel(t *testing.T) {
	testneed.Native(t)
	dir := t.TempDir() + "/a b"
	if err := unix.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w := observe(t, mountKind(), testEnv(t, "/"))
	if err := unix.Mount("some disk", dir, "tmpfs", unix.MS_NOSUID, "size=1m"); err != nil {
		t.Skip("mount:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	e := w.eventually(t, "mount.added", is("path", dir))
	if attr(t, e, "type") != "tmpfs" || attr(t, e, "volume") != "some disk" || !strings.Contains(attr(t, e, "options"), "nosuid") {
		t.Errorf("%+v", e)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	e = w.eventually(t, "mount.added", func(e logging.Event) bool { _, ok := e.Attr("options_before"); return ok && is("path", dir)(e) })
	if o := attr(t, e, "options"); !strings.HasPrefix(o, "ro,") {
		t.Errorf("options after the remount: %q", o)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "mount.removed", is("path", dir))
}

func TestParseMount(t *testing.T) {
	for line, want := range map[string]mount{
		`36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`: {
			36, 35, 98, 0, "/mnt1", "/mnt2", "rw,noatime", "ext3", "/dev/root", "rw,errors=continue"},
		`26 1 254:0 / / rw,relatime - ext4 /dev/vda rw`: {26, 1, 254, 0, "/", "/", "rw,relatime", "ext4", "/dev/vda", "rw"},
		`5 1 0:9 / /a\040b\134c rw shared:1 master:2 - tmpfs no\011ne`: {
			5, 1, 0, 9, "/", "/a b\\c", "rw", "tmpfs", "no\tne", ""},
	} {
		got, ok := parseMount(line)
		if !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n %+v, want\n %+v", line, got, want)
		}
	}
	for _, line := range []string{"", "x", "1 2 3:4 / / rw ext4 a", "1 2 x:4 / / rw - ext4 a", "1 2 3:4 / / rw - ext4", "1 2 3:99999999999 / / rw - ext4 a"} {
		if m, ok := parseMount(line); ok {
			t.Errorf("%q: %+v", line, m)
		}
	}
	long := strings.Repeat("x", 3000)
	if m, ok := parseMount("1 2 3:4 /" + long + " /" + long + " " + long + " - " + long + " " + long + " " + long); !ok || len(m.point) > maxMountText || len(m.super) > maxMountText {
		t.Errorf("%d, %v", len(m.point), ok)
	}
	var many strings.Builder
	for i := range maxMounts + 1 {
		fmt.Fprintf(&many, "%d 1 0:1 / / rw - tmpfs x rw\n", i)
	}
	if list, whole := parseMounts([]byte(many.String())); len(list) != maxMounts || whole {
		t.Errorf("%d mounts kept, whole %v", len(list), whole)
	}
}

func TestMountDiff(t *testing.T) {
	var rec recorded
	sink := &Sink{name: "mount", emit: rec.emit, limit: newLimiter(logging.Rate{Per: 1, Burst: 100})}
	line := func(s string) mount { m, _ := parseMount(s); return m }
	m := mountWatcher{known: byID([]mount{line("1 0 8:1 / / rw - ext4 a rw"), line("2 1 8:2 / /data rw,nosuid - ext4 b rw")})}
	m.diff([]mount{line("1 0 8:1 / / ro - ext4 a rw"), line("2 1 8:3 / /data rw - vfat c rw"), line("3 1 0:9 / /x rw - tmpfs t rw")}, sink)
	var got []string
	for _, e := range rec.list {
		before, _ := e.Attr("options_before")
		got = append(got, e.Code+" "+attr(t, e, "path")+" "+attr(t, e, "type")+" "+attr(t, e, "options")+" "+before)
	}
	want := []string{"mount.removed /data ext4 rw,nosuid ", "mount.added / ext4 ro rw", "mount.added /data vfat rw ", "mount.added /x tmpfs rw "}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add([]byte("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"))
	f.Add([]byte(`5 1 0:9 / /a\040b\134c rw - tmpfs no\011ne` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _ := parseMounts(b)
		for _, m := range list {
			for _, s := range []string{m.root, m.point, m.options, m.fsType, m.source, m.super} {
				if len(s) > maxMountText {
					t.Errorf("field of %d bytes", len(s))
				}
			}
		}
	})
}
