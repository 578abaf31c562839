// SPDX-License-Identifier: Apache-2.0

package update

// PolicyPath is the TUF target path of the configuration policy an operator has for a product's devices. What is in it is no
// business of this package; it travels like an assignment, so that it has the same signatures, expiry and versions that never
// go back.
func PolicyPath(product string) string { return "policy/" + product + ".json" }

// MaxPolicy is the longest policy in bytes.
const MaxPolicy = 256 << 10
