// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/backstay/backstay/agent/config"
	"github.com/backstay/backstay/agent/store"
	"github.com/backstay/backstay/identity"
	"github.com/backstay/backstay/identity/est"
	"github.com/backstay/backstay/identity/keys"
	"github.com/backstay/backstay/logging"
	"github.com/backstay/backstay/logging/ship"
	"github.com/backstay/backstay/logging/spool"
	"github.com/backstay/backstay/update"
)

// openStore opens state.db. A database that cannot be read is put aside: what it held can be had again, by enrolling and by
// fetching metadata, and the rollback floor is not in it.
func (a *agent) openStore() error {
	path := filepath.Join(a.cfg.StateDir, "state.db")
	db, err := store.Open(path)
	if errors.Is(err, store.ErrCorrupt) {
		a.recorder.emit("state.lost", slog.String("severity", "high"), slog.String("why", err.Error()))
		if err := os.Rename(path, path+".corrupt"); err != nil {
			return fmt.Errorf("put state database aside: %w", err)
		}
		db, err = store.Open(path)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", update.ErrSetup, err)
	}
	a.store = db
	known, err := db.LoadTrust()
	if err != nil {
		return err
	}
	a.clock.Raise(known.Issued)
	return nil
}

func (a *agent) openIdentity(ctx context.Context) error {
	id, err := OpenIdentity(a.cfg, a.store, a.clock, a.recorder.emit)
	if err != nil {
		return err
	}
	if err := id.Born(ctx); err != nil {
		return err
	}
	a.identity = id
	if a.enrolled() {
		a.owned.open()
	}
	return nil
}

// OpenIdentity opens the identity a configuration describes. The factory step uses it without the rest of the agent.
func OpenIdentity(cfg *config.Config, state identity.State, clock *Clock, emit identity.Emit) (*identity.Identity, error) {
	anchors := x509.NewCertPool()
	if cfg.Server.CAFile != "" {
		pem, err := os.ReadFile(cfg.Server.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read server.ca_file: %w: %w", identity.ErrSetup, err)
		}
		if !anchors.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read server.ca_file %s: %w: no certificate in it", cfg.Server.CAFile, identity.ErrSetup)
		}
	}
	files, err := keys.File(filepath.Join(cfg.StateDir, "keys"), keys.Options{Now: clock.Now})
	if err != nil {
		return nil, err
	}
	c := identity.Config{
		Keys: files, State: state, Anchors: anchors, Now: clock.Now, ClockLate: clock.Late, Emit: emit,
		Serial: serial(cfg.Product.SerialFile), RenewAfter: cfg.Identity.RenewAfter.Std(),
	}
	if cfg.Identity.ESTURL != "" {
		client, err := est.New(cfg.Identity.ESTURL, &tls.Config{RootCAs: anchors, Time: clock.Now, MinVersion: tls.VersionTLS12})
		if err != nil {
			return nil, fmt.Errorf("%w: identity.est_url: %w", identity.ErrSetup, err)
		}
		client.Now = clock.Now
		c.Enroller = client
	}
	if cfg.HasUpdate() {
		c.Prove = func(ctx context.Context, t *tls.Config) error { return prove(ctx, t, cfg.Update.MetadataURL) }
	}
	return identity.Open(c)
}

// prove uses a new certificate where it will be needed: any answer of the repository will do, a refused handshake will not.
func prove(ctx context.Context, t *tls.Config, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, strings.TrimRight(url, "/")+"/timestamp.json", nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: t, DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// serial reads the number on the label. "" when there is none: it is reported, and decides nothing.
func serial(path string) string {
	if path == "" {
		return ""
	}
	b, _ := os.ReadFile(path)
	return strings.Trim(string(b[:min(len(b), 64)]), "\x00 \r\n\t")
}

func (a *agent) openLog() error {
	policy, err := logging.NewPolicy(a.cfg.Audit.ReceiptKeys, a.cfg.Audit.Quorum)
	if err != nil {
		return fmt.Errorf("audit.receipt_keys: %w", err)
	}
	a.log, err = spool.Open(spool.Config{
		Dir: filepath.Join(a.cfg.StateDir, "audit"), Key: a.identity.Birth(), Policy: policy,
		Capacity: int64(a.cfg.Audit.CapacityMiB) << 20, Now: a.clock.Now, Stamp: a.recorder.stamp,
		Store: a.cfg.Audit.Store, Counter: a.openCounter(),
		LastResort: "/dev/pmsg0", Remains: "/sys/fs/pstore/pmsg-ramoops-0",
	})
	if err != nil {
		return err
	}
	a.recorder.start(a.log)
	a.recorder.takePending(a.cfg.StateDir)
	a.recorder.emit("agent.start", slog.String("version", a.opt.Version), slog.String("key_class", string(a.identity.Birth().Class())))
	return nil
}

func (a *agent) openShipper() {
	if len(a.cfg.Audit.Brokers) == 0 {
		return
	}
	if err := a.tryOpenShipper(); err != nil {
		a.part("audit shipping", err)
	}
}

func (a *agent) tryOpenShipper() error {
	device, audit := a.identity.ID(), a.cfg.Audit
	c := ship.Config{
		Log: ship.Spool(a.log), Device: device, Emit: a.recorder.emit, Logger: a.logger, MaxRate: audit.MaxRate, Rejoin: audit.Rejoin.Std(),
		Doorbell: func() {
			if a.updater != nil {
				a.updater.ring()
			}
		},
	}
	for _, b := range audit.Brokers {
		m, err := ship.NewMQTT(ship.MQTTConfig{Broker: b, Proxy: audit.Proxy, ClientID: device, TLS: a.identity.TLS(), Filters: ship.Filters(device)})
		if err != nil {
			return err
		}
		c.Transports = append(c.Transports, noted{m, a.connectedWith})
	}
	var err error
	a.shipper, err = ship.New(c)
	return err
}

// noted tells how each connection to the broker went.
type noted struct {
	ship.Transport
	tell func(error)
}

func (n noted) Connect(ctx context.Context, will ship.Message) (<-chan struct{}, error) {
	lost, err := n.Transport.Connect(ctx, will)
	if ctx.Err() == nil {
		n.tell(err)
	}
	return lost, err
}

// connectedWith tells the identity how its certificate fared with the broker: an answer proves the present key, a refusal of
// the certificate makes the next round enrol again. What else keeps a broker away says nothing about it.
func (a *agent) connectedWith(err error) {
	if err == nil {
		err = a.identity.Confirm()
	} else {
		err = a.identity.Rejected(err)
	}
	if err != nil {
		a.logger.Error("note the use of the certificate", "err", err)
	}
}

func (a *agent) openBaseline() {
	if len(a.cfg.Baseline.Profiles) == 0 {
		return
	}
	state, err := layers(a.cfg.Baseline, a.store, a.recorder.emit)
	if err != nil {
		a.part("baseline", err)
		return
	}
	engine, err := newEngine(a.cfg, state.policy, a.clock, a.recorder.emit)
	if err != nil {
		a.part("baseline", err)
		return
	}
	if err := engine.Rebind(context.Background()); err != nil {
		a.part("baseline", err)
	}
	if p := newProver(a.cfg, a.identity.TLS); p != nil {
		engine.Managed, engine.Confirm = p.managed, p.confirm
	}
	if _, err := engine.Recover(context.Background()); err != nil {
		a.part("baseline", err)
	}
	a.guard = newGuard(a.cfg.Baseline, engine, a.logger)
	a.policy = &policies{
		guard: a.guard, product: a.cfg.Product.Name, poll: a.cfg.Update.Poll.Std(), store: a.store, now: a.clock.Now,
		emit: a.recorder.emit, logger: a.logger, wake: make(chan struct{}, 1), state: state,
	}
}

// restart is the machine's Reboot: the log's last records must not be in memory when the power goes.
func (a *agent) restart(ctx context.Context, reason string) error {
	if err := a.log.Flush(ctx); err != nil {
		a.logger.Error("flush audit log before reboot", "err", err)
	}
	argument, err := rebootArgument(a.updater.machine.Boot)
	if err != nil {
		return err
	}
	a.logger.Info("reboot", "reason", reason, "method", a.cfg.Reboot.Method, "argument", argument)
	return reboot(ctx, a.cfg.Reboot, argument)
}

func (a *agent) connected() bool { return a.shipper != nil && a.shipper.Status().Connected }

func (a *agent) worst(ctx context.Context, above string) (string, error) {
	if a.guard == nil {
		return "", errors.New("no baseline is configured")
	}
	return a.guard.worst(ctx, above)
}

// part notes that a part could not start.
func (a *agent) part(name string, err error) {
	a.problems.add(name, err)
	a.logger.Error("cannot start "+name, "err", err)
	a.recorder.emit("agent.part-failed", slog.String("severity", "high"), slog.String("outcome", "failure"),
		slog.String("part", name), slog.String("why", err.Error()))
}
