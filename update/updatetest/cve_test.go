// SPDX-License-Identifier: Apache-2.0

package updatetest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// fault is one published fault of another updater, and the tests that hold the same door shut here.
type fault struct {
	id, source, what string
	tests            []string // path of the file from the top of the tree, and the function; for TestAttack, the case as well
}

var faults = []fault{
	{"CVE-2026-34155", "https://github.com/rauc/rauc/security/advisories/GHSA-6hj7-q844-m2hx",
		"a length wrapped, and a signature covered the first bytes of a bundle over 2 GiB alone",
		[]string{"update/updatetest/attack_test.go:TestAttack/length beyond 32 bits", "update/updatetest/attack_test.go:TestAttack/length beyond 31 bits in the assignment alone",
			"update/trust/target_test.go:TestOpenWrongLength"}},
	{"CVE-2020-25860", "https://github.com/rauc/rauc/security/advisories/GHSA-cgf3-h62j-w9vv",
		"what was verified was opened again and could be another file by then",
		[]string{"update/updatetest/attack_test.go:TestAttack/other bytes after the first look", "update/trust/mirror_test.go:TestMixedBytes", "update/machine_test.go:TestSpoiledLine"}},
	{"CVE-2025-67903", "https://github.com/mendersoftware/mender (MEN-9109)",
		"a payload that the signed manifest does not list was accepted",
		[]string{"update/updatetest/attack_test.go:TestAttack/image that no role lists", "update/trust/lookup_test.go:TestTarget"}},
	{"MEN-9146", "https://github.com/mendersoftware/mender (MEN-9146)",
		"a suffix was taken off a name before its checksum was looked up, so that two names met",
		[]string{"update/updatetest/attack_test.go:TestAttack/name with a suffix that another signed name has not", "update/trust/lookup_test.go:TestNamesThatAreNotAllowed"}},
	{"MEN-1412", "https://github.com/mendersoftware/mender (MEN-1412)",
		"the header with the conditions of an artifact was not under its checksums",
		[]string{"update/updatetest/attack_test.go:TestAttack/properties changed after they were signed", "update/updatetest/attack_test.go:TestAttack/properties changed, and nothing else"}},
	{"CVE-2026-2968", "https://security-tracker.debian.org/tracker/CVE-2026-2968",
		"a web server inside the updater had faults of its own",
		[]string{"update/updatetest/cve_test.go:TestNoListeningPort"}},
	{"jetkvm#1262", "https://github.com/jetkvm/kvm/issues/1262", "an empty signature passed as one that need not be checked",
		[]string{"update/updatetest/attack_test.go:TestAttack/signature of 0 bytes", "update/updatetest/attack_test.go:TestAttack/unsigned"}},
	{"jetkvm#1263", "https://github.com/jetkvm/kvm/issues/1263", "a pre-release version skipped the check of its signature",
		[]string{"update/updatetest/attack_test.go:TestAttack/unsigned pre-release"}},
	{"hub.mender.io 6495", "https://hub.mender.io/t/artifact-verification-is-ignored-if-there-are-no-keys/6495",
		"with its key files gone the client verified nothing and installed",
		[]string{"update/updatetest/attack_test.go:TestAttack/key file missing", "update/updatetest/attack_test.go:TestAttack/key file empty JSON"}},
	{"weak order of versions", "https://github.com/sbabic/swupdate/blob/master/core/artifacts_versions.c",
		"a version that does not parse is compared as text, so v1.0 passed a floor of 2.0.0",
		[]string{"update/updatetest/attack_test.go:TestAttack/older release named v1.0", "update/updatetest/attack_test.go:TestAttack/older release named release-1"}},
	{"floor that a command lifts", "https://github.com/rauc/rauc/blob/master/docs/reference.rst (--ignore-version-limit)",
		"a local client switches the protection against old releases off",
		[]string{"update/updatetest/attack_test.go:TestAttack/older release, validly signed", "update/command_test.go:TestRollbackRefuses"}},
	{"duplicate keys", "https://www.rfc-editor.org/rfc/rfc8259#section-4",
		"two parsers take different ones of two equal names",
		[]string{"update/updatetest/attack_test.go:TestAttack/a key twice in the properties", "update/trust/scan_test.go:TestScan"}},
	{"paths that lead elsewhere", "https://cwe.mitre.org/data/definitions/22.html",
		"a name in an archive or a manifest leaves its directory",
		[]string{"update/updatetest/attack_test.go:TestAttack/path that leads elsewhere", "update/trust/lookup_test.go:TestNamesThatAreNotAllowed"}},
	{"decompression bomb", "https://cwe.mitre.org/data/definitions/409.html",
		"a small body unpacks to more than the device has",
		[]string{"update/updatetest/attack_test.go:TestAttack/body that unpacks to more", "update/trust/fetch_test.go:TestCompressedAnswer"}},
	{"grubenv renamed before it was written", "https://github.com/sbabic/swupdate/blob/master/bootloader/grub.c",
		"a cut after the rename left an empty environment",
		[]string{"update/boot/grub_test.go:TestCutGRUB"}},
	{"rauc#930", "https://github.com/rauc/rauc/issues/930", "a cut right after a slot was made active lost that",
		[]string{"update/boot/cut_uboot_test.go:TestCutUBoot", "update/cut_test.go:TestCutEverywhere"}},
	{"rauc#459", "https://github.com/rauc/rauc/issues/459", "nothing looked again at what had been written",
		[]string{"update/machine_test.go:TestSpoiledLine"}},
	{"aktualizr#1185", "https://github.com/advancedtelematic/aktualizr/issues/1185", "metadata that expired while a device was off stopped it for good",
		[]string{"update/trust/attack_test.go:TestNewerButExpiredTimestamp", "update/updatetest/attack_test.go:TestAttack/frozen: nothing newer is shown"}},
}

func TestFaults(t *testing.T) {
	for _, f := range faults {
		if f.source == "" || f.what == "" || len(f.tests) == 0 {
			t.Errorf("%s: the entry is not complete", f.id)
		}
		for _, ref := range f.tests {
			if why := unknownTest(ref); why != "" {
				t.Errorf("%s: %s", f.id, why)
			}
		}
		named := map[string]bool{}
		var list []string
		for _, ref := range f.tests {
			file, function, _ := strings.Cut(ref, ":")
			function, _, _ = strings.Cut(function, "/")
			if short := "`" + file + ":" + function + "`"; !named[short] {
				named[short] = true
				list = append(list, short)
			}
		}
		t.Logf("fault\t%s\t%s\t%s\t%s", f.id, strings.SplitN(f.source, " ", 2)[0], f.what, strings.Join(list, " "))
	}
}

const top = "../.."

// unknownTest says why there is no test of the name file:Function or file:Function/case.
func unknownTest(ref string) string {
	file, function, ok := strings.Cut(ref, ":")
	function, name, sub := strings.Cut(function, "/")
	b, err := os.ReadFile(filepath.Join(top, filepath.FromSlash(file)))
	switch {
	case !ok || err != nil:
		return ref + ": there is no such file"
	case !regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(function) + `\(`).Match(b):
		return ref + ": there is no such function"
	case sub && !slices.ContainsFunc(attacks, func(a wrongdoing) bool { return a.name == name }):
		return ref + ": there is no such case"
	}
	return ""
}

// TestDocsNameTests holds that every test which the pages on updates name exists.
func TestDocsNameTests(t *testing.T) {
	for page, least := range map[string]int{"docs/update-comparison.md": 30, "docs/attacks.md": 10} {
		b, err := os.ReadFile(filepath.Join(top, page))
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile("`([a-z][A-Za-z0-9_/.-]*_test\\.go:[A-Z][A-Za-z0-9]*)`").FindAllSubmatch(b, -1)
		if len(found) < least {
			t.Errorf("%s names %d tests, at least %d were expected", page, len(found), least)
		}
		for _, m := range found {
			if why := unknownTest(string(m[1])); why != "" {
				t.Errorf("%s: %s", page, why)
			}
		}
	}
}

// TestNoListeningPort holds that nothing which is linked into the agent listens on anything but a unix socket.
func TestNoListeningPort(t *testing.T) {
	fleetSide := []string{"update/repo", "update/updatetest", "update/trust/trusttest", "update/trust/conformance", "update/internal", "identity/ca", "identity/est/interop",
		"configs/scan", "configs/examples", "logging/collect"}
	calls := 0
	for _, dir := range []string{"agent", "update", "identity", "configs", "logging", "cmd/backstay", "cmd/internal"} {
		err := filepath.WalkDir(filepath.Join(top, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel := filepath.ToSlash(strings.TrimPrefix(path, filepath.FromSlash(top+"/")))
			if e.IsDir() && (e.Name() == "testdata" || slices.Contains(fleetSide, rel)) || strings.HasSuffix(rel, "test") && e.IsDir() {
				return filepath.SkipDir
			}
			if e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			calls += listens(t, rel, path)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if calls == 0 {
		t.Error("not even the control socket was seen")
	}
}

// listens counts the calls in one file that open a socket to listen on, and complains about those that are not unix sockets.
func listens(t *testing.T, rel, path string) (calls int) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !strings.HasPrefix(sel.Sel.Name, "Listen") {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok || !slices.Contains([]string{"net", "http", "tls", "unix", "syscall"}, x.Name) {
			return true
		}
		calls++
		if sel.Sel.Name == "ListenUnix" || sel.Sel.Name == "ListenUnixgram" {
			return true
		}
		if len(call.Args) > 0 {
			if lit, ok := call.Args[0].(*ast.BasicLit); ok {
				if network, err := strconv.Unquote(lit.Value); err == nil && strings.HasPrefix(network, "unix") {
					return true
				}
			}
		}
		t.Errorf("%s calls %s.%s for something that is not a unix socket", rel, x.Name, sel.Sel.Name)
		return true
	})
	return calls
}
