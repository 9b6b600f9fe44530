package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// reader decodes files side by side. What is being decoded takes no more memory than the largest file may: as many bytes
// and as many values as one file may have are shared by all of them.
type reader struct {
	bytes, values *semaphore.Weighted
}

func newReader() *reader {
	return &reader{bytes: semaphore.NewWeighted(MaxFileBytes), values: semaphore.NewWeighted(maxNodes)}
}

// readFiles returns the documents of each file, one that cannot be read being a broken document. Up to GOMAXPROCS files
// are decoded at a time.
func readFiles(files []treeFile) [][]*Document {
	docs := make([][]*Document, len(files))
	r := newReader()
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(files)) {
		workers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(files) {
					return
				}
				docs[i] = r.documents(files[i])
			}
		})
	}
	workers.Wait()
	return docs
}

func (r *reader) documents(f treeFile) []*Document {
	if f.err != nil {
		return []*Document{unreadableFile(f.path, f.err)}
	}
	docs, err := r.file(f.path)
	if err != nil {
		return []*Document{unreadableFile(f.path, err)}
	}
	return docs
}

// file decodes one file. Only regular files are opened: a pipe could keep the reader waiting.
func (r *reader) file(path string) ([]*Document, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	if info.Size() > MaxFileBytes {
		return []*Document{tooLarge(path, info.Size())}, nil
	}
	defer take(r.bytes, info.Size())()
	data, err := readUpTo(path, info.Size())
	if err != nil {
		return nil, err
	}
	defer take(r.values, min(int64(estimateNodes(data)), maxNodes))()
	return Decode(path, data), nil
}

// take waits for n of what is shared, no more than there is, and returns what gives it back.
func take(shared *semaphore.Weighted, n int64) (giveBack func()) {
	_ = shared.Acquire(context.Background(), n) // fails when the context ends, which this one does not
	return func() { shared.Release(n) }
}

// readUpTo reads a file of about so many bytes; of one that has grown beyond MaxFileBytes meanwhile, one byte more than
// that, so that Decode refuses it.
func readUpTo(path string, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	data := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err := data.ReadFrom(io.LimitReader(f, MaxFileBytes+1)); err != nil {
		return nil, err
	}
	return data.Bytes(), nil
}

// unreadableFile stands for whatever is in a file that cannot be read.
func unreadableFile(path string, err error) *Document {
	var cause *fs.PathError
	message := err.Error()
	if errors.As(err, &cause) {
		message = cause.Err.Error()
	}
	return brokenFile(path, codeUnreadable, "the file cannot be read: "+message, "make it readable, or remove it")
}

func tooLarge(path string, size int64) *Document {
	return brokenFile(path, codeTooLarge, fmt.Sprintf("the file has %d bytes, at most %d are read", size, int64(MaxFileBytes)), "split the file")
}

// brokenFile is a document of which only the file is known.
func brokenFile(path, code, message, hint string) *Document {
	return &Document{
		File: path, actionUnread: true, targetUnread: true,
		Problems: []Problem{{Code: code, Severity: severityOf(code), File: path, Message: message, Hint: hint}},
	}
}
