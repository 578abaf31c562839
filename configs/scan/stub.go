// SPDX-License-Identifier: Apache-2.0

package scan

import "io"

const extRoot = 2

type stubVolume struct {
	volume
	codec struct{ name string }
	root  uint64
}

func (stubVolume) name() string    { return kindExt }
func (stubVolume) notes() []string { return nil }

func openSquashfs(io.ReaderAt) (stubVolume, error) {
	return stubVolume{}, &Unsupported{Name: kindSquashfs, What: "it is not read yet", Next: "unsquashfs -d ROOT IMAGE, then scan ROOT"}
}

func openExt(io.ReaderAt) (stubVolume, error) {
	return stubVolume{}, &Unsupported{Name: kindExt, What: "it is not read yet", Next: "debugfs -R 'rdump / ROOT' IMAGE, then scan ROOT"}
}

func isExt(io.ReaderAt) bool { return true }
