// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/backstay/backstay/cmd/internal/cli"
	"github.com/backstay/backstay/identity/ca"
	"github.com/backstay/backstay/logging/collect"
	"github.com/backstay/backstay/logging/ship"
	"github.com/backstay/backstay/update/repo"
)

// serve is the fleet side on one machine. A part whose address is empty is not started: somebody else's server does it.
type serve struct {
	caDir, repoDir, publicDir, collectorDir string

	names                             string // comma separated, in the servers' certificates
	listenEST, listenRepo, listenMQTT string

	brokers                         keyList // somebody else's, instead of the MQTT front
	brokerCA, brokerCert, brokerKey string
}

func serveCommand() *cli.Command {
	var s serve
	return &cli.Command{
		Name: "serve", Short: "run the fleet server: enrolment, repository, MQTT front and collector",
		Long: `Everything a fleet needs on one machine, in one process, each part on its own port with TLS and client certificates.
Every part has a replacement: leave its address empty and use any EST server, any static file host for the public directory
of the repository, or any MQTT 3.1.1 broker (--broker), to which the collector then subscribes.

The process holds the online keys of the repository (snapshot, timestamp, assign) and publishes again in time; it needs no
offline key. It ends on SIGTERM or SIGINT.`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&s.caDir, "ca", "ca", "`directory` of the enrolment authority")
			fs.StringVar(&s.repoDir, "repo", "", "`directory` of the repository to keep fresh; empty: its files are only served")
			fs.StringVar(&s.publicDir, "public", "", "`directory` to serve as the repository; default: public in the repository")
			fs.StringVar(&s.collectorDir, "collector", "collector", "`directory` of the collector's store and receipt key")
			fs.StringVar(&s.names, "names", "localhost", "host `names` and addresses devices use, separated by commas")
			fs.StringVar(&s.listenEST, "listen-est", "", "`address` of the enrolment server, host:port")
			fs.StringVar(&s.listenRepo, "listen-repo", "", "`address` of the repository server")
			fs.StringVar(&s.listenMQTT, "listen-mqtt", "", "`address` of the MQTT front")
			fs.Var(&s.brokers, "broker", "`URL` of a broker to subscribe to, tls://host:port; may be repeated")
			fs.StringVar(&s.brokerCA, "broker-ca", "", "PEM `file` with the broker's root; default: the authority's")
			fs.StringVar(&s.brokerCert, "broker-cert", "", "PEM `file` with the collector's certificate for the broker")
			fs.StringVar(&s.brokerKey, "broker-key", "", "PEM `file` with its key")
		},
		Run: func(ctx context.Context, env *cli.Env, _ []string) error { return s.run(ctx, env) },
	}
}

// ready is what serve prints once every part listens.
type ready struct {
	EST        string `json:"est"`         // URL
	Repo       string `json:"repo"`        // URL of the directory that holds metadata/ and targets/
	MQTT       string `json:"mqtt"`        // URL
	ReceiptKey string `json:"receipt_key"` // for audit.receipt_keys of the devices
}

func (s *serve) run(ctx context.Context, env *cli.Env) error {
	logger := slog.New(slog.NewTextHandler(env.Stderr, nil))
	authority, err := ca.Load(s.caDir, ca.Options{Emit: emitTo(logger)})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.collectorDir, 0o700); err != nil {
		return err
	}
	key, err := collect.OpenKey(filepath.Join(s.collectorDir, "receipt.key"), strings.ReplaceAll(authority.Name(), " ", "-")+"/collector")
	if err != nil {
		return err
	}
	store, err := collect.Open(s.collectorDir)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := store.ForgetOnline(ctx); err != nil {
		return err
	}
	collector, err := collect.New(collect.CollectorConfig{Store: store, Presence: store, Key: key, Logger: logger, Known: func(device string) bool {
		_, known := authority.Last(device)
		return known
	}})
	if err != nil {
		return err
	}
	out := ready{ReceiptKey: key.Key().String()}
	parts := []part{store.Serve} // lets audit and device commands read while the store is in use
	for _, open := range []func(*ca.CA, *collect.Collector, *slog.Logger, *ready) (part, error){s.enrolment, s.repository, s.front, s.subscriber} {
		p, err := open(authority, collector, logger, &out)
		if err != nil {
			return err
		}
		if p != nil {
			parts = append(parts, p)
		}
	}
	if s.repoDir != "" {
		parts = append(parts, func(ctx context.Context) error { return s.keepFresh(ctx, logger) })
	}
	if len(parts) == 1 {
		return cli.Usagef("nothing to serve: every address is empty")
	}
	if err := s.announce(env, out); err != nil {
		return err
	}
	return runParts(ctx, parts)
}

// part runs until ctx ends and then returns nil.
type part func(ctx context.Context) error

// runParts ends all parts as soon as one fails.
func runParts(ctx context.Context, parts []part) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, p := range parts {
		wg.Go(func() {
			defer stop()
			errs[i] = p(ctx)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *serve) announce(env *cli.Env, r ready) error {
	if env.JSON {
		return env.PrintJSON("backstay.serve/1", r)
	}
	t := env.Table()
	for _, row := range [][2]string{{"enrolment", r.EST}, {"repository", r.Repo}, {"mqtt", r.MQTT}, {"receipt key", r.ReceiptKey}} {
		if row[1] != "" {
			t.Row(row[0], row[1])
		}
	}
	return t.Flush()
}

func (s *serve) hosts() []string { return strings.Split(s.names, ",") }

// url is the address devices use for a listener.
func (s *serve) url(scheme string, l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return scheme + "://" + net.JoinHostPort(s.hosts()[0], port)
}

func (s *serve) enrolment(c *ca.CA, _ *collect.Collector, logger *slog.Logger, out *ready) (part, error) {
	if s.listenEST == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", s.listenEST)
	if err != nil {
		return nil, err
	}
	out.EST = s.url("https", l)
	return serveHTTP(l, c.EnrolTLS(s.hosts()...), c.Handler(), logger), nil
}

func (s *serve) repository(c *ca.CA, _ *collect.Collector, logger *slog.Logger, out *ready) (part, error) {
	if s.listenRepo == "" {
		return nil, nil
	}
	dir := s.publicDir
	if dir == "" {
		dir = filepath.Join(s.repoDir, "public")
	}
	l, err := net.Listen("tcp", s.listenRepo)
	if err != nil {
		return nil, err
	}
	out.Repo = s.url("https", l)
	return serveHTTP(l, c.ServerTLS(s.hosts()...), repositoryHandler(dir), logger), nil
}

// repositoryHandler serves the files of a published repository and nothing else: no listing, and a real 404 for a root that does
// not exist yet, which is how clients find the newest.
func repositoryHandler(dir string) http.Handler {
	files := http.FileServer(http.Dir(dir))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inside := strings.HasPrefix(r.URL.Path, "/metadata/") || strings.HasPrefix(r.URL.Path, "/targets/")
		if !inside || strings.HasSuffix(r.URL.Path, "/") || (r.Method != http.MethodGet && r.Method != http.MethodHead) {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-cache")
		files.ServeHTTP(w, r)
	})
}

// serveHTTP serves h with limits that keep a slow or silent client from holding the server.
func serveHTTP(l net.Listener, conf *tls.Config, h http.Handler, logger *slog.Logger) part {
	srv := &http.Server{Handler: h, TLSConfig: conf, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug)}
	return func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { srv.Close() })
		defer stop()
		if err := srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}

func (s *serve) front(c *ca.CA, collector *collect.Collector, logger *slog.Logger, out *ready) (part, error) {
	if s.listenMQTT == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", s.listenMQTT)
	if err != nil {
		return nil, err
	}
	f, err := collect.NewFront(collect.FrontConfig{Listener: l, TLS: c.ServerTLS(s.hosts()...), Verify: c.VerifyClient, Collector: collector, Logger: logger})
	if err != nil {
		return nil, err
	}
	out.MQTT = s.url("tls", l)
	return f.Run, nil
}

func (s *serve) subscriber(c *ca.CA, collector *collect.Collector, logger *slog.Logger, out *ready) (part, error) {
	if len(s.brokers) == 0 {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(s.brokerCert, s.brokerKey)
	if err != nil {
		return nil, fmt.Errorf("read --broker-cert and --broker-key: %w", err)
	}
	roots := c.Pool()
	if s.brokerCA != "" {
		pem, err := os.ReadFile(s.brokerCA)
		if err != nil {
			return nil, err
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read --broker-ca %s: no certificate in it", s.brokerCA)
		}
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }}
	var parts []part
	for _, b := range s.brokers {
		transport, err := collect.SubscriberMQTT(ship.MQTTConfig{Broker: b, ClientID: cert.Leaf.Subject.CommonName, TLS: conf})
		if err != nil {
			return nil, err
		}
		sub, err := collect.NewSubscriber(collect.SubscriberConfig{Transport: transport, Collector: collector, Logger: logger})
		if err != nil {
			return nil, err
		}
		parts = append(parts, sub.Run)
	}
	out.MQTT = strings.Join(s.brokers, " ")
	return func(ctx context.Context) error { return runParts(ctx, parts) }, nil
}

// keepFresh signs snapshot and timestamp again before they run out. A failure is tried again; devices refuse updates only when
// the timestamp has expired.
func (s *serve) keepFresh(ctx context.Context, logger *slog.Logger) error {
	const retry = time.Minute
	for {
		wait := retry
		if p, err := publish(ctx, s.repoDir); err == nil {
			wait = max(time.Until(p.Next), retry)
		} else if ctx.Err() == nil {
			logger.Error("publish repository", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func publish(ctx context.Context, dir string) (repo.Published, error) {
	r, err := repo.Open(dir, repo.Options{})
	if err != nil {
		return repo.Published{}, err
	}
	p, err := r.Publish(ctx)
	return p, errors.Join(err, r.Close())
}

// emitTo writes what a part reports to the engineer's log.
func emitTo(logger *slog.Logger) func(string, ...slog.Attr) {
	return func(code string, attrs ...slog.Attr) {
		logger.LogAttrs(context.Background(), slog.LevelInfo, code, attrs...)
	}
}
