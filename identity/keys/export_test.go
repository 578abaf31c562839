// SPDX-License-Identifier: Apache-2.0

package keys

// Unseal is for the fuzz target.
var Unseal = unseal

// SetFault makes f call fault before each durable step.
func (f *Files) SetFault(fault func(step, name string) error) { f.fault = fault }

// SetReady replaces the question to the kernel.
func (f *Files) SetReady(ready func() error) { f.ready = ready }
