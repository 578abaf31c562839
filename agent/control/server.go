// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Server answers calls.
type Server struct {
	Handler   Handler
	AllowUIDs []int                            // besides root's list, the agent's own user may always call
	Classify  func(error) *Error               // brings the pillars' errors into the form that travels; nil result: not known
	Denied    func(caller Caller, call string) // told of every refused caller; may be nil
	Log       *slog.Logger                     // may be nil
}

// Listen opens the socket. A socket left by an agent that died is removed, but only after nobody answered on it; anything else
// at that path is an error. The directory must belong to root or this user and be writable by nobody else, or whoever can
// write it could put a socket of his own there. The socket's mode is 0600, or 0666 when allow names users other than the
// agent's own and root: then the kernel's word about the caller decides alone.
func Listen(path string, allow []int) (net.Listener, error) {
	if err := checkDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	mode := os.FileMode(0o600)
	for _, uid := range allow {
		if uid != 0 && uid != os.Geteuid() {
			mode = 0o666
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("directory %s is writable by others (mode %04o)", dir, perm)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("directory %s belongs to user id %d", dir, st.Uid)
	}
	return nil
}

// removeStale removes a socket nobody answers on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errors.New("there is a file that is not a socket")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return errors.New("another agent answers there")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// Serve answers calls on l until ctx ends, then lets calls in flight finish for a few seconds and joins them. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var calls sync.WaitGroup
	callCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			defer calls.Done()
			s.serve(w, r)
		}),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      callTimeout + readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    8 << 10,
		BaseContext:       func(net.Listener) context.Context { return callCtx },
		ConnContext:       withCaller,
		ErrorLog:          slog.NewLogLogger(s.log().Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(newLimited(l, maxConns)) }()
	var err error
	select {
	case err = <-served:
		served <- http.ErrServerClosed
	case <-ctx.Done():
	}
	stop, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer done()
	if srv.Shutdown(stop) != nil {
		cancel()    // the methods' contexts
		srv.Close() //nolint:errcheck // nothing left to do about it
	}
	<-served
	calls.Wait()
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve control socket: %w", err)
	}
	return nil
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// withCaller asks the kernel who opened the connection. When it cannot tell, there is no caller and every call is refused.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	if l, ok := c.(*limitedConn); ok {
		c = l.Conn
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	if ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); ctlErr != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, Caller{UID: int(cred.Uid), PID: int(cred.Pid)})
}

// allowed reports whether the caller may call.
func (s *Server) allowed(ctx context.Context) (Caller, bool) {
	c, ok := CallerOf(ctx)
	return c, ok && (c.UID == os.Geteuid() || slices.Contains(s.AllowUIDs, c.UID))
}

// serve answers one call.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, prefix)
	caller, ok := s.allowed(r.Context())
	if !ok {
		if s.Denied != nil {
			s.Denied(caller, name)
		}
		s.fail(w, http.StatusForbidden, &Error{Class: ClassRefused, Code: "not-allowed", What: "call refused",
			Why: fmt.Sprintf("user id %d is not in control.allow_uids", caller.UID)})
		return
	}
	method := s.Handler[name]
	if method == nil || r.Method != http.MethodPost || !strings.HasPrefix(r.URL.Path, prefix) {
		s.fail(w, http.StatusNotFound, unknownMethod(name))
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		s.fail(w, http.StatusRequestEntityTooLarge, &Error{Class: ClassUsage, Code: "too-large", What: "read call", Why: err.Error()})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	result, err := s.call(ctx, method, body)
	if err != nil {
		e := toError(err, s.Classify)
		s.log().Info("control call failed", "call", name, "uid", caller.UID, "class", e.Class, "code", e.Code, "err", err)
		s.fail(w, http.StatusUnprocessableEntity, e)
		return
	}
	if stream, ok := result.(Stream); ok {
		s.stream(w, stream)
		return
	}
	s.answer(w, http.StatusOK, fillLists(result))
}

// call runs a method; a panic in it ends the call, not the agent.
func (s *Server) call(ctx context.Context, method Method, body []byte) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log().Error("control call panicked", "panic", p)
			result, err = nil, &Error{Class: ClassFailed, Code: "internal", What: "the agent made a mistake", Why: "see its log"}
		}
	}()
	return method(ctx, body)
}

func (s *Server) fail(w http.ResponseWriter, status int, e *Error) { s.answer(w, status, e) }

func (s *Server) answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.log().Error("control answer", "err", err)
		status, b = http.StatusInternalServerError, []byte(`{"class":"failed","code":"internal","what":"encode answer","why":""}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(b) //nolint:errcheck // the client is gone
}

// stream writes a byte stream. The error of a stream that broke off goes into a trailer, so that the client does not take half
// an export for a whole one.
func (s *Server) stream(w http.ResponseWriter, stream Stream) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", errorTrailer)
	w.WriteHeader(http.StatusOK)
	text := []byte("{}")
	if err := stream(w); err != nil {
		s.log().Info("control stream broke off", "err", err)
		if b, mErr := json.Marshal(toError(err, s.Classify)); mErr == nil {
			text = b
		}
	}
	w.Header().Set(errorTrailer, headerSafe(text))
}

// headerSafe is JSON without bytes a header cannot carry.
func headerSafe(b []byte) string {
	var out strings.Builder
	for _, r := range string(b) {
		if r < ' ' || r > '~' {
			fmt.Fprintf(&out, "\\u%04x", min(r, 0xfffd))
			continue
		}
		out.WriteRune(r)
	}
	return out.String()
}
