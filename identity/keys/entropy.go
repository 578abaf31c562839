// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/identity"
)

// unixStat is what os.FileInfo.Sys holds on Linux.
type unixStat = syscall.Stat_t

// entropyReady asks the kernel whether its generator has been seeded since power on. Units of a product that make keys before
// that may make the same ones. A kernel before 3.17 cannot answer, and Go would then read /dev/urandom without waiting, so no
// key is made there.
func entropyReady() error {
	var b [1]byte
	for {
		_, err := unix.Getrandom(b[:], unix.GRND_NONBLOCK)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return identity.ErrEntropy
		}
		return fmt.Errorf("ask the kernel for randomness: %w", err)
	}
}
