// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"path"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/logging"
)

// tail shows records. With Newest it walks the whole log, which has bounds, and keeps the last that fit.
func (a *agent) tail(ctx context.Context, p control.TailParams) (control.Tail, error) {
	match, filters, err := filterOf(p)
	if err != nil {
		return control.Tail{}, err
	}
	size, limit := a.log.Size(), uint64(min(max(p.Limit, 1), control.MaxTail))
	from := p.From
	if p.Newest {
		from = 0
		if !filters {
			from = size - min(size, limit)
		}
	}
	out := control.Tail{Size: size, Next: size}
	if from = max(from, a.log.State().Pruned); from >= size {
		return out, nil
	}
	for leaf, err := range a.log.From(ctx, from) {
		if err != nil {
			return out, err
		}
		r := record(leaf)
		if !match(r) {
			continue
		}
		if p.Newest && uint64(len(out.Items)) == limit {
			out.Items = append(out.Items[:0], out.Items[1:]...)
		}
		out.Items = append(out.Items, r)
		out.Next = max(out.Next, r.Last+1)
		if !p.Newest && uint64(len(out.Items)) == limit {
			out.Next = r.Last + 1
			break
		}
	}
	return out, nil
}

// filterOf makes a function of the filters; filters is false when there are none.
func filterOf(p control.TailParams) (match func(control.Record) bool, filters bool, err error) {
	least, usage := logging.SeverityDefault, func(what, why string) error {
		return &control.Error{Class: control.ClassUsage, Code: "bad-filter", What: what, Why: why}
	}
	if p.Severity != "" {
		if least = severityOf(p.Severity); least == logging.SeverityDefault {
			return nil, false, usage("the severity is not known", "it is info, low, medium, high, critical or fatal")
		}
	}
	if _, err := path.Match(p.Code, ""); err != nil {
		return nil, false, usage("the pattern of codes cannot be read", err.Error())
	}
	filters = p.Code != "" || p.Severity != "" || p.Source != "" || !p.Since.IsZero()
	return func(r control.Record) bool {
		if !filters {
			return true
		}
		code, _ := path.Match(p.Code, r.Code)
		return (p.Code == "" || code) && severityOf(r.Severity) >= least && !r.Time.Before(p.Since) && (p.Source == "" || sourceOf(r) == p.Source) && r.Code != ""
	}, filters, nil
}

func severityOf(name string) logging.Severity {
	for s := logging.SeverityInfo; s <= logging.SeverityFatal; s++ {
		if s.String() == name {
			return s
		}
	}
	return logging.SeverityDefault
}

func sourceOf(r control.Record) string {
	for _, a := range r.Attrs {
		if a.Name == "source" {
			return a.Value
		}
	}
	return ""
}

func record(leaf logging.Leaf) control.Record {
	out := control.Record{Index: leaf.Index, Last: leaf.End() - 1, Shed: leaf.Shed()}
	if out.Shed {
		return out
	}
	r, err := leaf.Decode()
	if r.Code == "" && err != nil {
		out.Message = err.Error()
		return out
	}
	out.Time, out.Code, out.Severity, out.Outcome = r.Time, r.Code, r.Severity.String(), r.Outcome.String()
	out.Message, out.Subject, out.Session, out.Rule, out.Policy = r.Message, r.Subject, r.Session, r.Rule, r.Policy
	for _, a := range r.Attrs {
		out.Attrs = append(out.Attrs, control.Attr{Name: a.Name, Value: a.Value})
	}
	return out
}
