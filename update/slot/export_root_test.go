// SPDX-License-Identifier: Apache-2.0

package slot

// RootDevice is what root= names.
var RootDevice = rootDevice
