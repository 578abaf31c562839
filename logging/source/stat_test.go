// SPDX-License-Identifier: Apache-2.0

package source

import (
	"reflect"

	"golang.org/x/sys/unix"
)

// setDev sets Dev, whose type depends on the architecture.
func setDev(st *unix.Stat_t, dev uint64) {
	reflect.ValueOf(st).Elem().FieldByName("Dev").SetUint(dev)
}
