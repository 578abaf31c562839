// SPDX-License-Identifier: Apache-2.0

package slot

// ParseCmdline is the parser behind Booted.
var ParseCmdline = parseCmdline
