// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
)

// audit waits until the collector has signed for every record, stops everything, and lets the verifier, a process of its own,
// prove the logs from the collector's store alone.
func (l *lab) audit(ctx context.Context, powerOff func()) (string, error) {
	if err := l.each(ctx, l.devices, "acknowledged", acknowledged); err != nil {
		return "", err
	}
	records := uint64(0)
	for _, d := range l.devices {
		s, err := d.status(ctx)
		if err != nil {
			return "", err
		}
		records += s.Audit.Size
	}
	powerOff()
	if err := l.fleet.stop(); err != nil {
		return "", fmt.Errorf("stop server: %w", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), l.fleet.self, "audit", "verify", "--store", l.fleet.path("collector"), "--receipt-key", l.fleet.receiptKey)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("backstayctl audit verify: %w\n%s", err, out.Bytes())
	}
	l.report.proof = out.String()
	seen := fmt.Sprintf("%d devices, %d records, every one signed for", len(l.devices), records)
	if l.killed != nil {
		seen += fmt.Sprintf("; the broker was killed %d times", l.killed())
	}
	return seen, nil
}
