// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"context"
	"path/filepath"
	"time"

	"github.com/backstay/backstay/configs"
)

// Fix mends a directory, or shows how with dry, as the engine does on a device: only rules whose fix is safe, or those named
// in ids. copies gets a copy of every file before it changes; a relative name in it is below the working directory.
func Fix(ctx context.Context, s *Source, p configs.Policy, now func() time.Time, copies string, ids []string, dry bool) (Result, error) {
	began := time.Now()
	e := &configs.Engine{Root: s.Root, Policy: p, Now: now}
	if copies != "" {
		var err error
		if e.StateDir, err = filepath.Abs(copies); err != nil {
			return Result{}, err
		}
	}
	report, err := e.Apply(ctx, ids, dry)
	if err != nil {
		return Result{}, err
	}
	r := NewResult(s, p, report)
	r.Took = time.Since(began).Milliseconds()
	return r, nil
}
