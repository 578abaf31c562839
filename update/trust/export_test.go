// SPDX-License-Identifier: Apache-2.0

package trust

// Scan is the look at metadata before the parser, which other checks repeat.
var Scan = scan
