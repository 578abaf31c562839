// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/backstay/backstay/testdata/testneed"
	"github.com/backstay/backstay/update/boot"
)

// The golden test of the environment's bytes: random environments, written by us and read by the real programs, written by
// them and read by us, in both formats, at random sizes and offsets, with flags around their wrap. The programs are those of
// libubootenv, U-Boot's own (built from its source, in the long suite), and mkenvimage. The first two know the byte order of
// the machine they run on and no other: for the other one, the four bytes of the checksum are turned around.

// rounds is how many environments a direction and format gets.
func rounds() int {
	if os.Getenv("BACKSTAY_LONG") == "1" {
		return 2000
	}
	if os.Getenv("BACKSTAY_TEST_EMULATED") != "" {
		return 5
	}
	return 25
}

// fwTool is a pair of programs that reads and writes environments.
type fwTool struct {
	name       string
	print, set func(config string) *exec.Cmd // set reads a script
	line       func(name, value string) string
	sorts      bool
}

func libubootenv(t *testing.T) fwTool {
	print, set := testneed.Program(t, "fw_printenv", "libubootenv-tool"), testneed.Program(t, "fw_setenv", "libubootenv-tool")
	return fwTool{name: "libubootenv", sorts: true,
		print: func(c string) *exec.Cmd { return exec.Command(print, "-c", c) },
		set:   func(c string) *exec.Cmd { return exec.Command(set, "-c", c, "-s", "-") },
		line:  func(n, v string) string { return n + "=" + v + "\n" }}
}

// uboots returns U-Boot's own programs, which have to be built first.
func uboots(t *testing.T) fwTool {
	testneed.Long(t, "uboot")
	out, err := exec.Command("../../testdata/ubootenv.sh").Output()
	if err != nil {
		if testneed.Strict() {
			t.Fatal(err)
		}
		t.Skipf("U-Boot's fw_printenv cannot be built here: %v", err)
	}
	tool, locks := strings.TrimSpace(string(out)), t.TempDir()
	return fwTool{name: "U-Boot",
		print: func(c string) *exec.Cmd { return exec.Command(tool, "-c", c, "-l", locks) },
		set: func(c string) *exec.Cmd { // one program with two names
			cmd := exec.Command(tool, "-c", c, "-l", locks, "-s", "-")
			cmd.Args[0] = "fw_setenv"
			return cmd
		},
		line: func(n, v string) string { return n + " " + v + "\n" }}
}

// randomEnv returns variables that fit into n bytes of data.
func randomEnv(rng *rand.Rand, n int) []string {
	const first = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
	const name, text = first + "0123456789.-/+", first + "0123456789 !\"#$%&'()*+,-./:;<=>?@[]^`{|}~\\\x01\x7f\x80\xc3\xbc\xff"
	pick := func(from string, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = from[rng.IntN(len(from))]
		}
		return string(b)
	}
	var list, names []string
	used := 1
	for range rng.IntN(40) + 1 {
		n1 := pick(first, 1) + pick(name, rng.IntN(12))
		value := pick(text, 1+rng.IntN(1+min(300, 1<<rng.IntN(9))))
		// A script's line has its blanks trimmed.
		value = strings.Trim(value, " ")
		if used += len(n1) + len(value) + 2; value == "" || slices.Contains(names, n1) || used > n {
			continue
		}
		names = append(names, n1)
		list = append(list, n1+"="+value)
	}
	if len(list) == 0 {
		list = []string{"a=1"}
	}
	return list
}

// field is one environment on disk that both sides reach.
type field struct {
	*bed
	path string
}

func newField(t *testing.T, rng *rand.Rand, copies int) *field {
	size := int64([]int{0x40, 0x80, 0x1ff, 0x200, 0x1000, 0x2001, 0x8000}[rng.IntN(7)])
	f := &field{bed: newBed(t, copies, size, int64(rng.IntN(3)*0x200))}
	f.path = filepath.Join(t.TempDir(), "fw_env.config")
	f.describe(t)
	return f
}

func (f *field) describe(t *testing.T) {
	t.Helper()
	var text strings.Builder
	for _, a := range f.config.Areas {
		fmt.Fprintf(&text, "%s %#x %#x\n", a.Path, a.Offset, a.Size)
	}
	if err := os.WriteFile(f.path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// turn makes an environment of the other byte order one of this machine's, and back.
func (f *field) turn(copies int) {
	for i := range copies {
		raw := bytes.Clone(f.raw(i))
		slices.Reverse(raw[:4])
		f.put(i, raw)
	}
}

func output(t *testing.T, cmd *exec.Cmd, stdin string) []string {
	t.Helper()
	cmd.Stdin = strings.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, errs.String())
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

func TestGoldenTools(t *testing.T) {
	testneed.Native(t) // the tools have the byte order of the machine that emulates
	for _, get := range []func(*testing.T) fwTool{libubootenv, uboots} {
		for _, copies := range []int{1, 2} {
			for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
				t.Run(fmt.Sprint(copies, order), func(t *testing.T) {
					t.Parallel()
					tool := get(t)
					t.Run("ours read by "+tool.name, func(t *testing.T) { goldenOurs(t, tool, copies, order) })
					t.Run("read by us from "+tool.name, func(t *testing.T) { goldenTheirs(t, tool, copies, order) })
				})
			}
		}
	}
}

// goldenOurs writes environments, and lets the program read them.
func goldenOurs(t *testing.T, tool fwTool, copies int, order binary.ByteOrder) {
	rng := rand.New(rand.NewPCG(uint64(copies), 11))
	var f *field
	for i := range rounds() {
		if i%50 == 0 {
			f = newField(t, rng, copies)
		}
		size := int(f.config.Areas[0].Size)
		vars := randomEnv(rng, size-5)
		f.create(order, "old=1")
		if copies == 2 {
			f.flags(t, rng, order)
		}
		err := boot.Update(f.config, func(e *boot.Env) error {
			for _, v := range e.All() {
				name, _, _ := strings.Cut(v, "=")
				if err := e.Set(name, ""); err != nil {
					return err
				}
			}
			for _, v := range vars {
				name, value, _ := strings.Cut(v, "=")
				if err := e.Set(name, value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if order != native() {
			f.turn(copies)
		}
		want := slices.Clone(vars)
		got := output(t, tool.print(f.path), "")
		if tool.sorts {
			slices.Sort(got)
			slices.Sort(want)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("round %d, size %#x:\n%q, want\n%q", i, size, got, want)
		}
		if raw := f.raw(0); copies == 1 {
			if end := bytes.Index(raw[4:], []byte{0, 0}); len(bytes.Trim(raw[4+end:], "\x00")) > 0 {
				t.Fatalf("round %d: the padding is %x", i, raw[4+end:])
			}
		}
	}
}

// flags gives the two copies flags around the wrap, the first of them damaged now and then.
func (f *field) flags(t *testing.T, rng *rand.Rand, order binary.ByteOrder) {
	t.Helper()
	pairs := [][2]byte{{0, 255}, {255, 0}, {254, 255}, {255, 254}, {0, 1}, {1, 0}, {7, 7}, {0, 0}, {255, 255}, {1, 200}}
	p := pairs[rng.IntN(len(pairs))]
	for i := range p {
		raw := bytes.Clone(f.raw(i))
		copy(raw[5:], fmt.Sprintf("old=%d\x00\x00", i))
		order.PutUint32(raw, crc32.ChecksumIEEE(raw[5:]))
		raw[4] = p[i]
		if rng.IntN(8) == 0 && i == 0 {
			raw[9] ^= 1
		}
		f.put(i, raw)
	}
}

// goldenTheirs lets the program write environments, over copies with flags around the wrap, and reads them; and it makes the
// same change on a copy of the field, where flags and choice of copy must come out the same.
func goldenTheirs(t *testing.T, tool fwTool, copies int, order binary.ByteOrder) {
	rng := rand.New(rand.NewPCG(uint64(copies), 12))
	var f, ours *field
	for i := range rounds() {
		if i%50 == 0 {
			f = newField(t, rng, copies)
			ours = &field{bed: newBed(t, copies, f.config.Areas[0].Size, f.config.Areas[0].Offset)}
		}
		vars := randomEnv(rng, int(f.config.Areas[0].Size)-5-len("old=1 "))
		f.create(native(), "old=1")
		if copies == 2 {
			f.flags(t, rng, native())
		}
		for c := range copies {
			ours.put(c, f.raw(c))
		}
		var script strings.Builder
		for _, v := range vars {
			name, value, _ := strings.Cut(v, "=")
			script.WriteString(tool.line(name, value))
		}
		output(t, tool.set(f.path), script.String())
		if order != native() {
			f.turn(copies)
			ours.turn(copies)
		}
		err := boot.Update(ours.config, func(e *boot.Env) error {
			for _, v := range vars {
				name, value, _ := strings.Cut(v, "=")
				if err := e.Set(name, value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got, want := f.load().All(), ours.load().All()
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("round %d:\n%q, want\n%q", i, got, want)
		}
		for c := range copies {
			if copies == 2 && f.raw(c)[4] != ours.raw(c)[4] {
				t.Fatalf("round %d: flags of copy %d are %d, ours %d", i, c, f.raw(c)[4], ours.raw(c)[4])
			}
		}
	}
}

// TestGoldenMkenvimage compares every byte with mkenvimage, in both formats and byte orders.
func TestGoldenMkenvimage(t *testing.T) {
	tool := testneed.Program(t, "mkenvimage", "u-boot-tools")
	rng := rand.New(rand.NewPCG(5, 13))
	out := filepath.Join(t.TempDir(), "env.bin")
	for i := range rounds() {
		size := []int{0x40, 0x200, 0x1000, 0x4000}[rng.IntN(4)]
		// A line that ends with a backslash goes on in the next.
		vars := slices.DeleteFunc(randomEnv(rng, size-6), func(v string) bool { return strings.HasSuffix(v, `\`) })
		if len(vars) == 0 {
			continue
		}
		for n, args := range [][]string{{}, {"-b"}, {"-r"}, {"-r", "-b"}} {
			order := []binary.ByteOrder{binary.LittleEndian, binary.BigEndian}[n%2]
			output(t, exec.Command(tool, append(args, "-s", fmt.Sprint(size), "-p", "0", "-o", out, "-")...), strings.Join(vars, "\n")+"\n")
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			got, err := boot.Encode(vars, size, n >= 2, order)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("round %d %v:\n%x\n%x: %v", i, args, got, want, err)
			}
			back, _, err := boot.Reencode(want, n >= 2)
			if err != nil || !slices.Equal(back, vars) {
				t.Fatalf("round %d %v: read as %q: %v", i, args, back, err)
			}
		}
	}
}
