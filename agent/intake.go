// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net"
	"slices"

	"github.com/backstay/backstay/agent/control"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/intake"
	"github.com/backstay/backstay/logging/source"
)

// programs is how the product's own programs write into the audit log. The zero value takes nothing.
type programs struct {
	server *intake.Server
	socket *net.UnixListener // nil when it is off or could not be opened
	devlog *net.UnixConn     // the same
}

// devlogLevels are the values of audit.intake.devlog_level in the order of their numbers.
var devlogLevels = [...]string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}

// openIntake opens the sockets of audit.intake. One that cannot be opened is a problem of the agent, not its end.
func (a *agent) openIntake() {
	c := a.cfg.Audit.Intake
	a.intake.server = intake.New(intake.Config{
		AllowUIDs: c.AllowUIDs, AllowGIDs: c.AllowGIDs, Rate: logging.Rate{Per: float64(c.Rate), Burst: 10 * c.Rate},
		Level:  slices.Index(devlogLevels[:], c.DevlogLevel),
		Record: a.recordFor, Emit: a.recorder.emit, Login: source.Login,
	})
	var err error
	if c.Socket != "" {
		if a.intake.socket, err = intake.Listen(c.Socket, c.AllowUIDs, c.AllowGIDs); err != nil {
			a.part("audit intake", err)
		}
	}
	if c.Devlog != "" {
		if a.intake.devlog, err = intake.ListenSyslog(c.Devlog, c.DevlogReplace); err != nil {
			a.part("audit intake of syslog lines", err)
		}
	}
}

// recordFor appends an event of a program. With durable set it waits until no power cut can lose it.
func (a *agent) recordFor(ctx context.Context, e logging.Event, durable bool) (size uint64, err error) {
	if err := a.log.Append(ctx, a.recorder.stamp(e)); err != nil || !durable {
		return 0, err
	}
	if err := a.log.Flush(ctx); err != nil {
		return 0, err
	}
	return a.log.Size(), nil
}

// parts are what has to run, each in a goroutine of its own. An intake that breaks takes the agent down with it, which the init
// system starts again: programs must not write into a socket nobody reads.
func (p programs) parts() (out []func(context.Context) error) {
	if p.socket != nil {
		out = append(out, func(ctx context.Context) error { return p.server.Serve(ctx, p.socket) })
	}
	if p.devlog != nil {
		out = append(out, func(ctx context.Context) error { return p.server.ServeSyslog(ctx, p.devlog) })
	}
	if len(out) > 0 {
		out = append(out, func(ctx context.Context) error { p.server.Account(ctx); return nil })
	}
	return out
}

// close releases sockets that were opened and never served; those that were are closed already.
func (p programs) close() {
	if p.socket != nil {
		p.socket.Close() //nolint:errcheck // nothing was taken
	}
	if p.devlog != nil {
		p.devlog.Close() //nolint:errcheck // nothing was taken
	}
}

func (p programs) status() control.Intake {
	if p.server == nil {
		return control.Intake{}
	}
	n := p.server.Counts()
	out := control.Intake{Accepted: n.Accepted, Refused: n.Refused, Suppressed: n.Suppressed, Below: n.Below}
	if p.socket != nil {
		out.Socket = p.socket.Addr().String()
	}
	if p.devlog != nil {
		out.Devlog = p.devlog.LocalAddr().String()
	}
	return out
}
