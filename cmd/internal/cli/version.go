// SPDX-License-Identifier: Apache-2.0

package cli

import "time"

// Version and Date are set by the linker from CHANGELOG.md (see Makefile), so that they depend on the tree alone. A plain
// `go build` leaves the values below.
var (
	Version = "0.0.0-dev"
	Date    = "2026-11-01" // release date; a lower bound of the device's clock
)

// ReleaseTime is Date as a time, the zero time when it does not parse.
func ReleaseTime() time.Time {
	t, err := time.Parse(time.DateOnly, Date)
	if err != nil {
		return time.Time{}
	}
	return t
}
