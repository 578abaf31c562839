// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Seams for the tests outside the package.
var (
	PrivateKey = privateKey
	WholeKey   = wholeKey
	Matches    = lineMatches
	Unsound    = unsound
	SchemeOf   = schemeOf
	Verifier   = verifier
	Printable  = printable
)

// DirTree is the tree of a directory.
func DirTree(root *os.Root) Tree { return dirTree{root: root} }

// SubTree is the tree of one of its directories, as a walk uses it.
func SubTree(t testing.TB, root *os.Root, name string) Tree {
	sub, c, err := dirTree{root: root}.Sub(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return sub
}

// LimitWalk makes walks of h end after n entries.
func LimitWalk(h *Host, n int) { h.entries = n }

// RemountOld adds a flag to a mount that has options, as on kernels without mount_setattr.
func RemountOld(fd int, options []string, flag uintptr) error {
	return remountOld(fd, unix.MS_BIND|restated(options)|flag, "")
}

// DMAnswer reads an answer of the device mapper.
var DMAnswer = dmAnswer

// PersistedSysctl is what the files set a parameter to.
func PersistedSysctl(ctx context.Context, h *Host, key string) (string, error) {
	settings, err := sysctlSettings(ctx, h)
	return persisted(settings, sysctlPath(key)).value, err
}
