// SPDX-License-Identifier: Apache-2.0

// Package testneed says what a test needs from outside the Go tool chain.
//
// A test that talks to a real peer (fw_printenv, mosquitto, qemu) asks for it here. Under plain `go test ./...` a missing
// program skips the test and names the Debian package that brings it; under BACKSTAY_TEST_STRICT=1, which `make test` sets
// after it has installed the packages, the same test fails. So a test cannot silently stop testing.
package testneed

import (
	"os"
	"os/exec"
	"testing"
)

// Strict reports whether a missing program is a failure.
func Strict() bool { return os.Getenv("BACKSTAY_TEST_STRICT") == "1" }

// Program returns the path of an outside program, or ends the test: skipped with the name of the Debian package to install,
// failed when Strict.
func Program(t testing.TB, name, debianPackage string) string {
	t.Helper()
	// Debian keeps some of these out of an ordinary user's PATH.
	for _, p := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	if Strict() {
		t.Fatalf("%s is missing: install the Debian package %s", name, debianPackage)
	}
	t.Skipf("%s is missing: install the Debian package %s", name, debianPackage)
	return ""
}

// Long skips a test of the long suites unless BACKSTAY_LONG=1; target names the make target that runs it.
func Long(t testing.TB, target string) {
	t.Helper()
	if os.Getenv("BACKSTAY_LONG") != "1" {
		t.Skipf("long suite: run `make %s`", target)
	}
}

// Guest reports whether the test runs in the guest of testdata/guest: a kernel of its own, on a processor that is emulated.
func Guest() bool { return os.Getenv("BACKSTAY_TEST_GUEST") == "1" }

// Native skips a test where the program runs under an emulator: the kernel cannot start it again, and its times are the
// emulator's.
func Native(t testing.TB) {
	t.Helper()
	if os.Getenv("BACKSTAY_TEST_EMULATED") != "" {
		t.Skip("it starts itself again or has bounds of time, and runs under an emulator")
	}
}
