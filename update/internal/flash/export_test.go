// SPDX-License-Identifier: Apache-2.0

package flash

// For tests.
var (
	BootPartition = bootPartition
	UnprotectFile = unprotect
)
