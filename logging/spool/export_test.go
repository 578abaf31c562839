// SPDX-License-Identifier: Apache-2.0

package spool

// Effect is one step towards durable data.
type Effect = effect

// OpenWithFuse opens a log whose durable effects ask fuse first: whether they fail, and whether they happen all the same.
func OpenWithFuse(cfg Config, fuse func(Effect) (apply bool, err error)) (*Log, error) {
	return open(cfg, fuse)
}

// CheckPages is the check of the shape of a database file.
var CheckPages = checkPages

// OpenError turns an error of bbolt.Open into the error of Open.
var OpenError = openError
