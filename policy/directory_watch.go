package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// How long a watch waits before it reports a change.
const (
	watchQuiet = 100 * time.Millisecond // without another change, so that a burst is reported once
	watchLate  = time.Second            // at most, however many changes follow
	watchPoll  = time.Second            // between looks at whether Path is still the same directory
)

// Watch calls changed after every burst of changes until ctx is done, and then returns nil. It calls changed once at the
// start, so that nothing is lost between an earlier Read and the watch, and whenever Path vanishes, returns or is
// replaced. changed is never called twice at a time.
//
// Changes are noticed by inotify or its like, in subdirectories and behind links too. The error is that of a system that
// lets no more be watched.
func (d Directory) Watch(ctx context.Context, changed func()) error {
	w := &watch{dir: d}
	defer w.close()
	if err := w.arm(); err != nil {
		return err
	}
	changed()
	poll := time.NewTicker(watchPoll)
	defer poll.Stop()
	var first time.Time // of the burst that is going on, zero if none is
	quiet := time.NewTimer(watchLate)
	quiet.Stop()
	note := func() {
		if first.IsZero() {
			first = time.Now()
		}
		quiet.Reset(min(watchQuiet, time.Until(first.Add(watchLate))))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.events():
			if ok && w.concerns(e.Name) {
				note()
			}
		case _, ok := <-w.errors(): // events were lost: anything may have changed
			if ok {
				note()
			}
		case <-poll.C:
			if w.replaced() {
				w.close()
				note()
			}
		case <-quiet.C:
			first = time.Time{}
			if err := w.arm(); err != nil {
				return err
			}
			changed()
		}
	}
}

// watch is the state of one Watch.
type watch struct {
	dir     Directory
	watcher *fsnotify.Watcher // nil while Path is absent
	root    string            // Path, or the directory it is a file of
	info    os.FileInfo       // of root
	failed  error             // why a directory cannot be watched
}

// arm watches every directory that documents can come from. It may be called again to find new ones. While Path is
// absent or unreadable there is nothing to watch, and replaced will notice the end of that.
func (w *watch) arm() error {
	info, err := os.Stat(w.dir.Path)
	w.root = w.dir.Path
	isFile := err == nil && !info.IsDir()
	if isFile {
		w.root = filepath.Dir(w.dir.Path)
		info, err = os.Stat(w.root)
	}
	if err != nil || w.info != nil && !os.SameFile(info, w.info) {
		w.close()
	}
	if err != nil {
		return nil
	}
	if w.watcher == nil {
		if w.watcher, err = fsnotify.NewWatcher(); err != nil {
			return fmt.Errorf("watch %s: %w", w.dir.Path, err)
		}
		w.info = info
	}
	w.failed = nil
	t := newTree(w.add)
	if isFile {
		t.enter(w.root)
		t.visitTarget(w.dir.Path)
		return w.failed
	}
	if err := t.walk(w.dir.Path); err != nil && w.failed == nil {
		w.close() // unreadable now; Read says why
	}
	return w.failed
}

// add watches one directory. One that vanishes or is forbidden meanwhile is for Read to report.
func (w *watch) add(dir string) {
	err := w.watcher.Add(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		w.failed = fmt.Errorf("watch %s: %w", dir, err)
	}
}

// replaced reports whether root is no longer what is watched: gone, back, or another directory under the same name,
// which no event tells of when a link above it has changed.
func (w *watch) replaced() bool {
	info, err := os.Stat(w.root)
	if w.watcher == nil {
		return err == nil
	}
	return err != nil || !os.SameFile(info, w.info)
}

// concerns reports whether a change can matter: hidden files are not read, except that kubelet's link decides what is.
func (w *watch) concerns(path string) bool {
	name := filepath.Base(path)
	return name == kubeletData || !strings.HasPrefix(name, ".")
}

// events is nil, from which nothing comes, while the watch is unarmed.
func (w *watch) events() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *watch) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close() // releases a descriptor; there is nothing to lose
		w.watcher = nil
	}
}
