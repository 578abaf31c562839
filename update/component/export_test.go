// SPDX-License-Identifier: Apache-2.0

package component

// SwapSlowly is the switch on a file system that cannot exchange two names.
func SwapSlowly(path string) error { return pair{path}.swapSlowly() }
