// SPDX-License-Identifier: Apache-2.0

// Package configs keeps a device in a configuration that is safe: rules as data, an engine that checks and mends them.
//
// A [Policy] is strict JSON: typed rules, no expressions, no commands to run. What the maker ships is the floor; an
// operator's policy laid over it may tighten it, or waive a rule with a reason and an end date, and is refused as a whole
// when it would loosen anything ([Merge]). The [Engine] runs the rules against a root directory, which may be the running
// system, a mounted image or an unpacked tree: probe, finding, and on request fix, probe, finding. A rule passes only on
// positive evidence that names what was inspected. A second run of fixes writes nothing.
//
// The package owns the engine's state directory: copies of what it changed, for undo, and the memory of what it fixed,
// to notice a fight with another program. Only the engine writes there, under a lock; a device's other programs must not
// be able to, because undo writes those copies back. Whoever controls the inspected tree can make a rule fail or unknown,
// never make the engine write outside the tree, hang or grow without bound. Whoever controls an operator policy can only
// tighten; the signature on a policy is checked before it comes here, not in this package.
//
// The kinds of rules are in configs/probe, the shipped rules in configs/baseline.
package configs

import "log/slog"

// Emit reports an audit event under a stable code: config.drift (the outcome of a rule changed), config.waived (it fails and
// that is accepted), config.fixed (a fix was made and proved) and config.state (how all of it stands: at the start, once a
// day, after a run that changed something). It is called synchronously, from one goroutine; nil reports nothing.
type Emit func(code string, attrs ...slog.Attr)

// Codes of the events.
const (
	EventDrift  = "config.drift"
	EventFixed  = "config.fixed"
	EventState  = "config.state"
	EventWaived = "config.waived"
	EventPolicy = "config.policy" // a policy was taken over, or refused; the agent reports it
)
