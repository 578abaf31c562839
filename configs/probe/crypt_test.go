// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"bufio"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/backstay/backstay/configs/probe"
	"github.com/backstay/backstay/testdata/testneed"
)

// crypts asks the C library, through Perl, for the hashes of passwords under settings. A setting that it refuses has "".
func crypts(t *testing.T, asks [][2]string) []string {
	t.Helper()
	perl := testneed.Program(t, "perl", "perl-base")
	cmd := exec.Command(perl, "-e", `while (<STDIN>) { chomp; my ($p, $s) = split /\t/, $_, -1; $p = pack "H*", $p; my $h = crypt($p, $s); print defined $h ? $h : "", "\n" }`)
	var in strings.Builder
	for _, a := range asks {
		fmt.Fprintf(&in, "%x\t%s\n", a[0], a[1])
	}
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.Output()
	must(t, err)
	var hashes []string
	for s := bufio.NewScanner(strings.NewReader(string(out))); s.Scan(); {
		hashes = append(hashes, strings.TrimPrefix(s.Text(), "*0"))
	}
	if len(hashes) != len(asks) {
		t.Fatalf("asked for %d hashes, got %d", len(asks), len(hashes))
	}
	return hashes
}

// Every scheme, with passwords at the edges of its blocks, against the C library of the build machine.
func TestHashesAreThoseOfTheCLibrary(t *testing.T) {
	var asks [][2]string
	settings := []string{"ab", "./", "zz", "Z9", "_J9..rasm", "_/...zzzz", "_z...ab./", "$1$abc$", "$1$", "$1$abcdefgh$", "$5$ab$", "$5$rounds=1000$abcdefghijklmnop$", "$6$ab$", "$6$rounds=1000$abcdefghijklmnop$",
		"$2b$04$abcdefghijklmnopqrstuu", "$2y$04$9999999999999999999999"}
	for _, s := range settings {
		for _, n := range []int{0, 1, 7, 8, 9, 16, 17, 31, 33, 64} {
			if !strings.HasPrefix(s, "$2") || n%31 == 0 { // bcrypt is slow under emulation
				asks = append(asks, [2]string{strings.Repeat("pW9~", 16)[:n], s})
			}
		}
		asks = append(asks, [2]string{"caf\xc3\xa9 \xff", s})
	}
	compared := 0
	for i, hash := range crypts(t, asks) {
		if hash == "" { // a C library without this scheme
			continue
		}
		compared++
		ok := probe.Verifier(hash)
		if ok == nil || !ok(asks[i][0]) {
			t.Errorf("%s is not %q", hash, asks[i][0])
		}
		if ok != nil && (len(asks[i][0]) < 8 && ok(asks[i][0]+"x") || ok("y"+asks[i][0])) {
			t.Errorf("%s is also something else than %q", hash, asks[i][0])
		}
	}
	t.Logf("%d hashes compared", compared)
	if compared < 100 {
		t.Errorf("only %d hashes were compared", compared)
	}
}
