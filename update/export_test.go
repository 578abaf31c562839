// SPDX-License-Identifier: Apache-2.0

package update

// SetSteps makes a download take its steps after this many bytes.
func SetSteps(m *Machine, chunk, checkpoint int64) {
	m.chunkSize, m.checkpointEvery = chunk, checkpoint
}

// Bounds of what a job carries along.
const (
	MaxHistory    = maxHistory
	MaxQuarantine = maxQuarantine
	MaxCuts       = maxCuts
	MaxTrials     = maxTrials
)
