// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/backstay/backstay/configs/examples"
)

// labBroker is Debian's mosquitto in place of the MQTT front, with the example configuration the product ships. It is killed at
// random for as long as the story lasts: what it had in memory is lost, and no record may be.
type labBroker struct {
	program string
	conf    string
	addr    string

	mu    sync.Mutex
	kills int
}

// startBroker issues the certificates with the commands an operator would use, writes the configuration and starts the broker.
func (l *lab) startBroker(ctx context.Context) (*labBroker, error) {
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			return nil, errors.New("mosquitto is missing: install the Debian package mosquitto")
		}
	}
	dir := l.fleet.path("broker")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "ca.pem"), l.fleet.ca, 0o644)); err != nil {
		return nil, err
	}
	for _, args := range [][]string{{"--out", dir + "/server", "localhost", "127.0.0.1"}, {"--client", "--out", dir + "/collector", "collector"}} {
		out, err := exec.CommandContext(ctx, l.fleet.self, append([]string{"ca", "server", "--ca", l.fleet.path("ca")}, args...)...).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("backstayctl ca server: %w\n%s", err, out)
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	if err := free.Close(); err != nil {
		return nil, err
	}
	b := &labBroker{program: program, conf: filepath.Join(dir, "mosquitto.conf"), addr: "127.0.0.1:" + port}
	return b, b.configure(dir, port)
}

// configure writes the shipped example with this run's paths and port.
func (b *labBroker) configure(dir, port string) error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	replace := strings.NewReplacer("/etc/mosquitto/backstay/server.pem", dir+"/server.crt", "/etc/mosquitto/backstay/", dir+"/",
		"listener 8883\n", "listener "+port+" 127.0.0.1\n")
	for _, name := range []string{"mosquitto.conf", "mosquitto.acl"} {
		example, err := examples.Files.ReadFile(name)
		if err != nil {
			return err
		}
		text := replace.Replace(string(example))
		if name == "mosquitto.conf" {
			text += "\nuser " + me.Username + "\n" // as root it would become a user who cannot read this run's keys
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// flags make the server subscribe to this broker.
func (b *labBroker) flags() []string {
	dir := filepath.Dir(b.conf)
	_, port, _ := net.SplitHostPort(b.addr)
	return []string{"--broker", "tls://localhost:" + port, "--broker-cert", dir + "/collector.crt", "--broker-key", dir + "/collector.key"}
}

// run keeps the broker up until ctx ends, and kills it every three to six seconds.
func (b *labBroker) run(ctx context.Context) {
	for ctx.Err() == nil {
		life, cancel := context.WithTimeout(ctx, 3*time.Second+rand.N(3*time.Second))
		cmd := exec.CommandContext(life, b.program, "-c", b.conf) // ends by SIGKILL
		_ = cmd.Run()
		cancel()
		if ctx.Err() == nil {
			b.mu.Lock()
			b.kills++
			b.mu.Unlock()
		}
	}
}

func (b *labBroker) killed() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kills
}
