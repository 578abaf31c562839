// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/backstay/backstay/logging"
)

// Server runs inlets side by side: the front, a subscriber, or both.
type Server struct{ inlets []Inlet }

// NewServer takes at least one inlet. Errors match logging.ErrSetup.
func NewServer(inlets ...Inlet) (*Server, error) {
	if len(inlets) == 0 {
		return nil, fmt.Errorf("open collector server: no inlet: %w", logging.ErrSetup)
	}
	return &Server{inlets: inlets}, nil
}

// Run serves until ctx ends or one inlet fails, then ends the others, joins them and returns what failed. The store is not
// closed: whoever opened it does that afterwards.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(s.inlets))
	for i, in := range s.inlets {
		wg.Go(func() {
			defer cancel()
			errs[i] = in.Run(ctx)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Ring sends the doorbell through every inlet; nil when one took it.
func (s *Server) Ring(device, text string) error {
	var all error
	for _, in := range s.inlets {
		err := in.Ring(device, text)
		if err == nil {
			return nil
		}
		all = errors.Join(all, err)
	}
	return all
}
