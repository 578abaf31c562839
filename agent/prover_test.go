// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/backstay/backstay/agent/config"
)

func proverFor(t *testing.T, metadata, broker string, conf *tls.Config) *prover {
	t.Helper()
	cfg := &config.Config{}
	cfg.Update.MetadataURL = metadata
	if broker != "" {
		cfg.Audit.Brokers = []string{broker}
	}
	cfg.Baseline.Confirm = config.Duration(time.Second)
	return newProver(cfg, func() *tls.Config { return conf })
}

func TestProverWantsANewConnection(t *testing.T) {
	if proverFor(t, "", "", nil) != nil {
		t.Fatal("a device without servers has a prover: its trials could only fail")
	}
	handshakes := 0
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { handshakes++; return nil, nil }}
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	defer srv.Close()
	conf := srv.Client().Transport.(*http.Transport).TLSClientConfig
	// What is open already does not count.
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body) //nolint:errcheck // only to keep the connection alive
	resp.Body.Close()
	p := proverFor(t, srv.URL+"/metadata/", "", conf)
	before := handshakes
	if err := p.managed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.confirm(t.Context()); err != nil || handshakes != before+2 {
		t.Fatalf("%v, %d handshakes", err, handshakes-before)
	}
	srv.CloseClientConnections()
	srv.Listener.Close()
	if err := p.confirm(t.Context()); err == nil || !strings.Contains(err.Error(), "update server") {
		t.Errorf("the server is cut off: %v", err)
	}
	// Somebody else who answers at the address is not the server.
	other := httptest.NewTLSServer(http.NotFoundHandler())
	other.Config.ErrorLog = nil
	defer other.Close()
	if err := proverFor(t, other.URL, "", &tls.Config{}).managed(t.Context()); err == nil {
		t.Error("a server whose certificate nobody signed proves something")
	}
}

func TestProverAsksThoseThatAnsweredBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := proverFor(t, "https://fw.example/metadata/", "tls://mq.example:8883", nil)
		p.window = 2 * time.Minute
		down := map[string]bool{"mq.example:8883": true}
		asked := map[string]int{}
		p.dial = func(_ context.Context, e endpoint) error {
			asked[e.addr]++
			if down[e.addr] {
				return errors.New("no route to host")
			}
			return nil
		}
		if err := p.managed(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.confirm(t.Context()); err != nil || asked["mq.example:8883"] != 1 || asked["fw.example:443"] != 2 {
			t.Errorf("a broker that was away before decides: %v, %v", err, asked)
		}
		down["mq.example:8883"] = false
		if err := p.managed(t.Context()); err != nil {
			t.Fatal(err)
		}
		down["mq.example:8883"] = true
		clear(asked)
		began := time.Now()
		err := p.confirm(t.Context())
		if err == nil || !strings.Contains(err.Error(), "audit broker: no route") {
			t.Errorf("a broker that was cut off: %v", err)
		}
		if d := time.Since(began); d != 2*time.Minute || asked["mq.example:8883"] < 6 || asked["mq.example:8883"] > 8 {
			t.Errorf("gave up after %s and %d tries", d, asked["mq.example:8883"])
		}
		go func() { time.Sleep(30 * time.Second); delete(down, "mq.example:8883") }()
		if err := p.confirm(t.Context()); err != nil {
			t.Errorf("a broker that came back within the window: %v", err)
		}
		down["fw.example:443"], down["mq.example:8883"] = true, true
		if err := p.managed(t.Context()); err == nil {
			t.Error("a device without any server that answers is managed")
		}
		if err := p.confirm(t.Context()); err == nil {
			t.Error("nothing to prove by is proof")
		}
	})
}
