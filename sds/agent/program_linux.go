package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/writ-auth/writ/internal/unixpeer"
)

const (
	maxProgramBytes = 1 << 30
	maxSums         = 256
)

// programs computes what programs are, once for each file.
type programs struct {
	mu   sync.Mutex // guards the map, and has one file read at a time
	sums map[fileState]string
}

// fileState changes with a file's content: nobody can set ctime back.
type fileState struct {
	dev, inode   uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// sum is the SHA-256 of the program that a process runs, in hex. It is read from the process, not from a path: that may
// lead to another file by now. A file that is being executed cannot be written to.
func (p *programs) sum(peer *unixpeer.Peer) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/exe", peer.PID))
	if err != nil {
		return "", fmt.Errorf("program of process %d: %w", peer.PID, err)
	}
	defer func() { _ = f.Close() }()
	if err := peer.Check(); err != nil { // it was that process's when it was opened
		return "", err
	}
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || info.Size() > maxProgramBytes {
		return "", fmt.Errorf("program of process %d: want a file of at most %d bytes", peer.PID, maxProgramBytes)
	}
	key := fileState{stat.Dev, stat.Ino, stat.Size, stat.Mtim, stat.Ctim}
	p.mu.Lock()
	defer p.mu.Unlock()
	if sum, ok := p.sums[key]; ok {
		return sum, nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, io.LimitReader(f, maxProgramBytes)); err != nil {
		return "", fmt.Errorf("program of process %d: %w", peer.PID, err)
	}
	if p.sums == nil || len(p.sums) >= maxSums {
		p.sums = map[fileState]string{}
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	p.sums[key] = sum
	return sum, nil
}
