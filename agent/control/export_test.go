// SPDX-License-Identifier: Apache-2.0

package control

// FillLists is the seam for its test.
var FillLists = fillLists

// The limits the tests go up to.
const (
	MaxBody  = maxBody
	MaxConns = maxConns
)
