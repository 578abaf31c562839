// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/backstay/backstay/configs"
	"github.com/backstay/backstay/configs/watch"
)

// This file is when the guard looks: at once, at what a watch says has changed, every half minute at what no watch can see,
// and once a period at everything.

const (
	maxWatches = 128              // directories; each costs the kernel about 1 KiB
	livePeriod = 30 * time.Second // kernel values and listening sockets change without a file being written
	liveBudget = time.Second      // most time one look at these may take; the costly ones wait for the full look
	lookBurst  = 10               // looks that events may cause at once
	lookEvery  = 6 * time.Second  // and then one in this time: a program that writes in a loop must not keep the device busy
)

// keep looks until ctx ends.
func (g *guard) keep(ctx context.Context) {
	w := g.watcher()
	if w != nil {
		defer w.Close()
		g.setWatcher(w)
		defer g.setWatcher(nil)
	}
	tokens, filled := float64(lookBurst), time.Now()
	nextLive := time.Now().Add(g.live)
	nextFull := time.Now()
	for ctx.Err() == nil {
		now := time.Now()
		tokens, filled = min(lookBurst, tokens+float64(now.Sub(filled))/float64(lookEvery)), now
		switch {
		case !now.Before(nextFull):
			_, err := g.look(ctx)
			g.complain(ctx, err)
			nextFull = time.Now().Add(jitter(g.period))
			nextLive = time.Now().Add(g.live)
		case !now.Before(nextLive):
			g.recheck(ctx, g.cheap())
			nextLive = time.Now().Add(g.live)
		}
		wait := time.Until(nextFull)
		if w == nil {
			if !sleep(ctx, wait, g.kick) {
				return
			}
			nextFull = time.Now()
			continue
		}
		g.rewatch(w)
		if tokens < 1 { // what happens meanwhile waits in the kernel's queue
			if !sleep(ctx, lookEvery, nil) {
				return
			}
			tokens++
			filled = time.Now()
		}
		c, err := w.Wait(ctx, max(0, min(wait, time.Until(nextLive))))
		if err != nil {
			g.complain(ctx, err)
			if !sleep(ctx, lookEvery, nil) {
				return
			}
			continue
		}
		if c.Woken {
			select {
			case <-g.kick:
				nextFull = time.Now()
			default:
			}
		}
		if rules := g.concerned(c); len(rules) > 0 {
			tokens--
			g.recheck(ctx, rules)
		}
	}
}

// jitter spreads the full looks of a fleet.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}

// sleep reports whether ctx still lasts.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-time.After(d):
	}
	return true
}

func (g *guard) complain(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		g.logger.Warn("baseline", "err", err)
	}
}

func (g *guard) watcher() *watch.Watcher {
	if !g.watch || g.engine.Root == nil {
		return nil
	}
	var sources []watch.Source
	if g.engine.Live {
		if s, err := watch.WatchNetfilter(); err == nil {
			sources = append(sources, s)
		} else {
			g.logger.Info("baseline: changes of the packet filter are noticed by the full check only", "err", err)
		}
	}
	w, err := watch.New(g.engine.Root, g.engine.Live, maxWatches, sources...)
	if err != nil {
		g.logger.Warn("baseline: changes are noticed by the full check only", "err", err)
		return nil
	}
	return w
}

// setWatcher lets wake reach the watcher while it is open.
func (g *guard) setWatcher(w *watch.Watcher) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = w
}

// wake makes keep look at everything soon.
func (g *guard) wake() {
	kick(g.kick)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil {
		g.open.Wake()
	}
}

// rewatch watches what the last run looked at.
func (g *guard) rewatch(w *watch.Watcher) {
	var paths []string
	for _, f := range g.report().Findings {
		paths = append(paths, f.Touched...)
	}
	slices.Sort(paths)
	if left := w.Set(slices.Compact(paths)); left > 0 {
		g.logger.Debug("baseline: directories that are not watched", "count", left)
	}
}

// recheck looks at some rules, and repairs them where the configuration says so.
func (g *guard) recheck(ctx context.Context, rules []string) {
	if len(rules) == 0 {
		return
	}
	g.run.Lock()
	defer g.run.Unlock()
	r, err := g.engine.Recheck(ctx, rules, g.enforce)
	if err != nil {
		g.complain(ctx, err)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last.Update(r)
}

// cheap lists the rules about values that change without a file being written, quickest first, as many as fit the budget.
func (g *guard) cheap() []string {
	var list []configs.Finding
	for _, f := range g.report().Findings {
		if slices.ContainsFunc(f.Touched, func(p string) bool { return strings.HasPrefix(p, "/proc/") || strings.HasPrefix(p, "/sys/") }) {
			list = append(list, f)
		}
	}
	slices.SortStableFunc(list, func(a, b configs.Finding) int { return int(a.Took - b.Took) })
	var out []string
	left := liveBudget
	for _, f := range list {
		if left -= time.Duration(f.Took) * time.Microsecond; left < 0 {
			break
		}
		out = append(out, f.Rule)
	}
	return out
}

// concerned lists the rules that looked at what changed, or below it, or at the directory it is in. What this agent changed
// itself, and nobody since, concerns none.
func (g *guard) concerned(c watch.Changes) []string {
	paths := slices.DeleteFunc(c.Paths, g.isOwn)
	var out []string
	for _, f := range g.report().Findings {
		if c.All || slices.Contains(paths, watch.Netfilter) && slices.Contains(f.Inspected, watch.Netfilter) ||
			slices.ContainsFunc(f.Touched, func(t string) bool { return touches(t, paths) }) {
			out = append(out, f.Rule)
		}
	}
	return out
}

func touches(touched string, changed []string) bool {
	return slices.ContainsFunc(changed, func(p string) bool {
		return p == touched || path.Dir(p) == touched || strings.HasPrefix(touched, p+"/")
	})
}

// stamp tells one state of a file from another; the zero stamp is a file that is not there.
type stamp struct {
	ino          uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// maxOwn bounds what is remembered of the agent's own changes; beyond it they are looked at once more, which finds nothing.
const maxOwn = 256

// own remembers a file the engine has just written. It implements configs.Engine.Changed. The stamp is taken before the bytes
// are compared: whoever writes after it gives the file another one, and whoever wrote before it is found out by the bytes.
func (g *guard) own(p string, holds func() bool) {
	if len(g.mine) >= maxOwn {
		clear(g.mine)
	}
	delete(g.mine, p)
	if s := stampOf(g.engine.Root, p); holds() {
		g.mine[p] = s
	}
}

// isOwn reports whether a change is one this agent made. A file that somebody wrote after it has another stamp.
func (g *guard) isOwn(p string) bool {
	g.run.Lock()
	defer g.run.Unlock()
	if s, ok := g.mine[p]; ok {
		return s == stampOf(g.engine.Root, p)
	}
	base, temp := strings.CutSuffix(strings.TrimPrefix(path.Base(p), "."), ".backstay")
	_, ours := g.mine[path.Join(path.Dir(p), base)]
	return temp && ours && stampOf(g.engine.Root, p) == stamp{}
}

func stampOf(root *os.Root, p string) stamp {
	fi, err := root.Lstat(strings.TrimPrefix(p, "/"))
	if err != nil {
		return stamp{}
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}
	}
	return stamp{uint64(st.Ino), st.Size, st.Mtim, st.Ctim}
}
