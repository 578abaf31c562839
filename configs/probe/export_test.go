// SPDX-License-Identifier: Apache-2.0

package probe

// Seams for the tests outside the package.
var (
	HasPrivateKey = hasPrivateKey
	SchemeOf      = schemeOf
	Verifier      = verifier
	Printable     = printable
)
