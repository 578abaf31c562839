// SPDX-License-Identifier: Apache-2.0

package keys

// Unseal is for the fuzz target.
var Unseal = unseal
