// SPDX-License-Identifier: Apache-2.0

package floor

// The one form of a copy.
var (
	Decode = decode
	Encode = encode
)
