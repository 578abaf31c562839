// SPDX-License-Identifier: Apache-2.0

// Package examples holds the example files a product starts from, so that programs and tests use the very files that ship.
package examples

import "embed"

// Files are agent.json, mosquitto.conf and mosquitto.acl.
//
//go:embed agent.json mosquitto.conf mosquitto.acl
var Files embed.FS
