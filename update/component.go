// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// Component is a part of a release beside its image: the firmware of a microcontroller or an FPGA, a file, a directory tree. It
// is signed with the release.
type Component struct {
	Name    string   // as the device's configuration spells it
	Version string   // for people, and for a handler that has no other way to tell what it runs
	Path    string   // TUF target path
	Length  int64    // bytes
	SHA256  [32]byte // digest
	After   []string // components of this release that are activated before it
}

// Release is the component as something to fetch.
func (c Component) Release() Release {
	return Release{Path: c.Path, Version: c.Version, Length: c.Length, SHA256: c.SHA256}
}

// Components reaches the parts of a device that are updated beside its image. Every method may be repeated, and is after a cut.
type Components interface {
	// Runs reports whether a component runs what c says. It is a *Refusal with code CodeNoComponent if the device has none of
	// that name.
	Runs(ctx context.Context, c Component) (bool, error)
	// Install brings the bytes to a place the component does not run from, and proves by reading them again that it holds what
	// is signed. Until then nothing looks into them.
	Install(ctx context.Context, c Component, image io.Reader) error
	// Activate makes the component run what was installed.
	Activate(ctx context.Context, c Component) error
	// Rollback makes the component run what it ran before c was activated, if it was.
	Rollback(ctx context.Context, c Component) error
}

// Codes of what can go wrong with components.
const (
	CodeNoComponent = "no-component" // the release has a component that this device has not
	CodeComponent   = "component"    // a component could not be activated
)

const (
	maxComponents  = 16
	maxUndo        = 3 // rollbacks of one job that may fail before the image goes back without them
	componentEnd   = ".part"
	maxTargetPath  = 3 * maxName
	maxComponentID = 32
)

// Order returns the components so that each comes after those it needs, and otherwise as they are listed.
func Order(all []Component) ([]Component, error) {
	var out []Component
	placed := map[string]bool{}
	for len(out) < len(all) {
		before := len(out)
		for _, c := range all {
			if placed[c.Name] || slices.ContainsFunc(c.After, func(n string) bool { return !placed[n] }) {
				continue
			}
			placed[c.Name] = true
			out = append(out, c)
		}
		if len(out) == before {
			return nil, errors.New("components wait for each other, or for one that is not in the release")
		}
	}
	return out, nil
}

// components reads an optional list of components.
func (o *object) components(f, product string) []Component {
	if !o.has(f) {
		return nil
	}
	v, there := o.raw(f)
	if !there {
		return nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(v, &list); err != nil || len(list) > maxComponents {
		o.fail("field %q is not a list of at most %d components", f, maxComponents)
		return nil
	}
	out := make([]Component, 0, len(list))
	for _, raw := range list {
		e, err := parseObject(raw)
		if err != nil {
			o.fail("field %q: %w", f, err)
			return nil
		}
		c := Component{
			Name: e.name("name", isComponent), Version: e.name("version", IsVersion), Length: int64(e.integer("length")), SHA256: e.digest("sha256"),
			After: e.names("after", maxComponents, isComponent), Path: e.name("path", func(s string) bool { return isPart(s, product) }),
		}
		switch {
		case e.err != nil:
		case c.Length == 0:
			e.fail("component %s is empty", c.Name)
		case slices.ContainsFunc(out, func(o Component) bool { return o.Name == c.Name }):
			e.fail("component %s is there twice", c.Name)
		}
		if e.err != nil {
			o.fail("field %q: %w", f, e.err)
			return nil
		}
		out = append(out, c)
	}
	ordered, err := Order(out)
	if err != nil {
		o.fail("field %q: %w", f, err)
	}
	return ordered
}

// identity is what a release is remembered by when it failed: its image, and with components all of it, because the same image
// may come with better ones.
func (r Release) identity() [32]byte {
	if len(r.Components) == 0 {
		return r.SHA256
	}
	h := sha256.New()
	h.Write(r.SHA256[:])
	for _, c := range r.Components {
		fmt.Fprintf(h, "%s %x\n", c.Name, c.SHA256)
	}
	return [32]byte(h.Sum(nil))
}

func isComponent(s string) bool { return IsProduct(s) && len(s) <= maxComponentID }

// ComponentPath is the TUF target path of a component. Another directory would be the business of another role.
func ComponentPath(product, name, version string) string {
	return "firmware/" + product + "/" + name + "-" + version + componentEnd
}

func isPart(s, product string) bool {
	name, ok := strings.CutPrefix(s, "firmware/"+product+"/")
	return ok && len(s) <= maxTargetPath && strings.HasSuffix(name, componentEnd) && IsVersion(strings.TrimSuffix(name, componentEnd))
}

// Part is what a job remembers of one component. The zero Part is one that nothing has been done with.
type Part struct {
	Installed bool `json:"installed,omitempty"` // or running already
	Touched   bool `json:"touched,omitempty"`   // activating it was begun
	Active    bool `json:"active,omitempty"`
}

// The components of a release and its image are installed all or not at all:
//
//   - downloading installs every component after the image. Nothing runs yet.
//   - trial activates them, in their order, in the new image and before it is judged. Only there: an image that does not come up
//     leaves them as they were.
//   - reverting rolls them back, in the opposite order, before the old image is the default again.
//
// What is about to be activated is saved first, so that a cut in between is rolled back too.

// suits refuses a release with components that this device has not.
func (m *Machine) suits(ctx context.Context, r Release) error {
	for _, c := range r.Components {
		if m.Components == nil {
			return noComponent(r, c.Name)
		}
		if _, err := m.Components.Runs(ctx, c); err != nil {
			return fmt.Errorf("look at component %s: %w", c.Name, err)
		}
	}
	return nil
}

func noComponent(r Release, name string) error {
	return &Refusal{Code: CodeNoComponent, What: "release " + r.Version, Why: "it has the component " + name + ", which this device has not"}
}

// upToDate reports whether every component of a release runs already.
func (m *Machine) upToDate(ctx context.Context, r Release) bool {
	for _, c := range r.Components {
		if m.Components == nil {
			return false
		}
		if runs, err := m.Components.Runs(ctx, c); err != nil || !runs {
			return false
		}
	}
	return true
}

// part changes what is remembered of a component, durably.
func (m *Machine) part(job *Job, name string, p Part) error {
	next := map[string]Part{}
	for k, v := range job.Parts {
		next[k] = v
	}
	next[name] = p
	job.Parts = next
	return m.save(*job)
}

// install installs every component that does not run already.
func (m *Machine) install(ctx context.Context, job *Job) error {
	for _, c := range job.Release.Components {
		p := job.Parts[c.Name]
		if p.Installed {
			continue
		}
		runs, err := m.Components.Runs(ctx, c)
		if err == nil && !runs {
			err = m.bring(ctx, c)
		}
		if err != nil {
			return fmt.Errorf("install component %s: %w", c.Name, err)
		}
		p.Installed, p.Active = true, runs
		if err := m.part(job, c.Name, p); err != nil {
			return err
		}
		m.emit("update.component-installed", job, slog.String("component", c.Name), slog.String("version", c.Version))
	}
	return nil
}

func (m *Machine) bring(ctx context.Context, c Component) error {
	body, err := m.Source.Open(ctx, c.Release(), 0)
	if err != nil {
		return err
	}
	defer body.Close()
	return m.Components.Install(ctx, c, body)
}

// activate makes the components run, before the image is judged.
func (m *Machine) activate(ctx context.Context, job *Job) error {
	for _, c := range job.Release.Components {
		p := job.Parts[c.Name]
		if p.Active {
			continue
		}
		if !p.Touched {
			p.Touched = true
			if err := m.part(job, c.Name, p); err != nil {
				return err
			}
		}
		if err := m.Components.Activate(ctx, c); err != nil {
			return &failed{CodeComponent, fmt.Errorf("activate component %s %s: %w", c.Name, c.Version, err)}
		}
		p.Active = true
		if err := m.part(job, c.Name, p); err != nil {
			return err
		}
		m.emit("update.component-activated", job, slog.String("component", c.Name), slog.String("version", c.Version))
	}
	return nil
}

// undo rolls the components back. One that cannot go back keeps the image from going back for a few attempts only: a device with
// the wrong microcontroller firmware still has to be reachable.
func (m *Machine) undo(ctx context.Context, job *Job) error {
	for _, c := range slices.Backward(job.Release.Components) {
		p := job.Parts[c.Name]
		if !p.Touched {
			continue
		}
		err := error(fmt.Errorf("%w: no components are configured any more", ErrSetup))
		if m.Components != nil {
			err = m.Components.Rollback(ctx, c)
		}
		if err != nil {
			if job.Undo++; job.Undo <= maxUndo {
				return errors.Join(fmt.Errorf("roll back component %s: %w", c.Name, err), m.save(*job))
			}
			m.emit("update.component-stuck", job, slog.String("component", c.Name), slog.String("reason", err.Error()))
		}
		p.Touched, p.Active = false, false
		if err := m.part(job, c.Name, p); err != nil {
			return err
		}
	}
	return nil
}
