// SPDX-License-Identifier: Apache-2.0

// Command update brings the same images to the same loop device with backstay, RAUC, SWUpdate, Mender's client and with plain
// dd and sha256sum, in turn and several times, and prints a Markdown table of the medians: wall time, processor time, peak
// resident memory and bytes written to the device.
//
// It needs root and loop devices. bin/ must hold backstay and backstayctl as `make build` makes them. Whichever peer is not
// installed is left out; run.sh installs the Debian packages rauc, rauc-service, swupdate, mender-client and mender-artifact.
//
// Everybody gets the best way of working that this machine has. backstay fetches over TLS with a client certificate, checks
// TUF metadata, writes, reads the slot back and changes the boot environment. SWUpdate and Mender are measured with a local
// file and over TLS; RAUC with a local file alone, because its streaming wants NBD and dm-verity. Nobody but backstay reads
// back what was written.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// contender is one way to bring an image to the device.
type contender struct {
	name string
	run  func(ctx context.Context, img image) (sample, error)
}

// image is what is installed.
type image struct {
	path    string
	size    int64
	sha256  [32]byte
	version string // of the release it is
}

// sample is one installation.
type sample struct {
	wall, cpu   time.Duration
	rss         int64 // most resident memory of any one process, bytes
	written     int64 // to the device
	idle, plain int64 // before the installation: resident, and the part that is not backed by files
	start       int64 // the peak of an agent's start
}

func main() {
	var b bench
	sizes := flag.String("sizes", "64,1024", "image sizes in MiB")
	flag.IntVar(&b.rounds, "n", 5, "rounds; images from 256 MiB on have at most 3")
	flag.StringVar(&b.dir, "dir", ".", "`directory` for images and the files behind the devices")
	flag.StringVar(&b.bin, "bin", "bin", "`directory` with backstay and backstayctl")
	flag.BoolVar(&b.maps, "maps", false, "say where the memory of the idle agent lies")
	only := flag.String("only", "", "comma separated beginnings of names: nobody else is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	if err := b.all(ctx, *sizes); err != nil {
		fmt.Fprintln(os.Stderr, "bench-update:", err)
		os.Exit(1)
	}
}

type bench struct {
	dir, bin string
	rounds   int
	only     []string
	maps     bool

	slotA, slotB *loop
	server       *static
	fleet        *fleet
	images       []image
}

func (b *bench) all(ctx context.Context, sizes string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("loop devices need root")
	}
	if b.dir, err = os.MkdirTemp(b.dir, "bench-update-"); err == nil {
		b.dir, err = filepath.Abs(b.dir)
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer b.close()
	if err := b.prepare(ctx, sizes); err != nil {
		return err
	}
	contenders, err := b.contenders(ctx)
	if err != nil {
		return err
	}
	for _, img := range b.images {
		if err := b.measure(ctx, img, contenders); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) prepare(ctx context.Context, sizes string) (err error) {
	var biggest int64
	for i, s := range strings.Split(sizes, ",") {
		mib, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return err
		}
		img, err := makeImage(filepath.Join(b.dir, s+".img"), mib<<20)
		if err != nil {
			return err
		}
		img.version = fmt.Sprintf("2.%d.0", i)
		b.images, biggest = append(b.images, img), max(biggest, img.size)
	}
	if b.slotA, err = newLoop(ctx, filepath.Join(b.dir, "a.disk"), 1<<20); err != nil {
		return err
	}
	if b.slotB, err = newLoop(ctx, filepath.Join(b.dir, "b.disk"), biggest+16<<20); err != nil {
		return err
	}
	if b.server, err = serveStatic(b.dir); err != nil {
		return err
	}
	return nil
}

func (b *bench) close() {
	if b.fleet != nil {
		b.fleet.stop()
	}
	for _, l := range []*loop{b.slotA, b.slotB} {
		if l != nil {
			l.detach()
		}
	}
}

func (b *bench) contenders(ctx context.Context) ([]contender, error) {
	var out []contender
	for _, open := range []func(context.Context) ([]contender, error){b.plain, b.ours, b.rauc, b.swupdate, b.mender} {
		list, err := open(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			if b.only == nil || slices.ContainsFunc(b.only, func(s string) bool { return strings.HasPrefix(c.name, s) }) {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// measure lets everybody install img in turn.
func (b *bench) measure(ctx context.Context, img image, contenders []contender) error {
	rounds := b.rounds
	if img.size >= 256<<20 {
		rounds = min(rounds, 3)
	}
	samples := make([][]sample, len(contenders))
	for round := range rounds {
		for i, c := range contenders {
			if err := b.slotB.spoil(img.size); err != nil {
				return err
			}
			before := b.slotB.written()
			s, err := c.run(ctx, img)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if err := b.slotB.holds(img); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			s.written = b.slotB.written() - before
			if s.written < img.size {
				return fmt.Errorf("%s: %d bytes were written of an image of %d: the device held some already, and that is no comparison", c.name, s.written, img.size)
			}
			samples[i] = append(samples[i], s)
			fmt.Fprintf(os.Stderr, "%d MiB, round %d: %-34s %6.2f s %5.2f s %5.1f MiB\n", img.size>>20, round+1, c.name,
				s.wall.Seconds(), s.cpu.Seconds(), mib(s.rss))
		}
	}
	fmt.Printf("\n%d MiB, median of %d\n\n| what | wall | from to | processor | peak RSS | written | idle RSS | of it own pages | peak of the start |\n|---|---|---|---|---|---|---|---|---|\n",
		img.size>>20, rounds)
	for i, c := range contenders {
		fmt.Println(row(c.name, samples[i]))
	}
	return nil
}

func row(name string, all []sample) string {
	pick := func(f func(sample) float64) []float64 {
		var v []float64
		for _, s := range all {
			v = append(v, f(s))
		}
		slices.Sort(v)
		return v
	}
	median := func(f func(sample) float64) float64 { v := pick(f); return v[len(v)/2] }
	wall := pick(func(s sample) float64 { return s.wall.Seconds() })
	idle := "| |"
	if all[0].idle > 0 {
		idle = fmt.Sprintf("%.1f MiB | %.1f MiB | %.1f MiB", median(func(s sample) float64 { return mib(s.idle) }),
			median(func(s sample) float64 { return mib(s.plain) }), median(func(s sample) float64 { return mib(s.start) }))
	}
	return fmt.Sprintf("| %s | %.2f s | %.2f to %.2f | %.2f s | %.1f MiB | %.1f MiB | %s |", name, wall[len(wall)/2], wall[0], wall[len(wall)-1],
		median(func(s sample) float64 { return s.cpu.Seconds() }), median(func(s sample) float64 { return mib(s.rss) }),
		median(func(s sample) float64 { return mib(s.written) }), idle)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
