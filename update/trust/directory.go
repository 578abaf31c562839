// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Directory is a copy of a repository in a directory, on a stick as a rule: its
// folders metadata and targets as they are published. Whoever hands it over is
// trusted as little as a server.
//
// No name leads out of it, symbolic links included, and only regular files are
// read: a stick can hold a link to a device's own secrets, or a pipe that never
// ends an open.
type Directory struct {
	path              string
	root              *os.Root
	metadata, targets mirror
}

// OpenDirectory opens a directory that holds a repository. An error is
// [update.ErrSetup]: a person named the wrong place.
func OpenDirectory(path string) (*Directory, error) {
	if !filepath.IsAbs(path) {
		return nil, setup(fmt.Errorf("open repository in %q: not an absolute path", path))
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, setup(fmt.Errorf("open repository in %s: %w", path, err))
	}
	d := &Directory{path: path, root: root}
	if _, err := root.Stat(filepath.Join("metadata", timestampName)); err != nil {
		root.Close()
		return nil, setup(fmt.Errorf("open repository in %s: it has no metadata/%s", path, timestampName))
	}
	base := &url.URL{Scheme: "file", Path: path}
	client := &http.Client{Transport: d, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	d.metadata = mirror{base: base.JoinPath("metadata").String(), http: client}
	d.targets = mirror{base: base.JoinPath("targets").String(), http: client}
	return d, nil
}

// Path returns the path that was opened.
func (d *Directory) Path() string { return d.path }

// Close closes the directory, so that what it is on can be taken away.
func (d *Directory) Close() error { return d.root.Close() }

// RoundTrip answers a request with a file, as a server of files would. It
// implements http.RoundTripper.
func (d *Directory) RoundTrip(req *http.Request) (*http.Response, error) {
	name, ok := strings.CutPrefix(req.URL.Path, strings.TrimRight(d.path, "/")+"/")
	if !ok || !filepath.IsLocal(name) {
		return d.answer(req, http.StatusNotFound, nil, 0), nil
	}
	// Without O_NONBLOCK the open of a pipe waits for its other end.
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return d.answer(req, http.StatusNotFound, nil, 0), nil
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	var off int64
	if spec, ok := strings.CutPrefix(req.Header.Get("Range"), "bytes="); ok {
		off, err = strconv.ParseInt(strings.TrimSuffix(spec, "-"), 10, 64)
		if err == nil && off > fi.Size() {
			err = fmt.Errorf("it has %d bytes, byte %d is asked for", fi.Size(), off)
		}
		if err == nil {
			_, err = f.Seek(off, io.SeekStart)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
	}
	resp := d.answer(req, http.StatusOK, f, fi.Size()-off)
	if off > 0 {
		resp.StatusCode = http.StatusPartialContent
		resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, fi.Size()-1, fi.Size()))
	}
	return resp, nil
}

func (d *Directory) answer(req *http.Request, status int, body io.ReadCloser, length int64) *http.Response {
	if body == nil {
		body = http.NoBody
	}
	return &http.Response{StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Body: body, ContentLength: length, Request: req}
}

var _ http.RoundTripper = (*Directory)(nil)
