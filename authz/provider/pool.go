package provider

import "sync"

// pool holds what connections of a provider are made by, T, and makes another one when they are to be made by another
// certificate or other roots: calls that are under way end on the old one, and then it goes. So nobody waits, and no
// connection outlives what it was verified by, but for the calls on it.
type pool[T any] struct {
	open  func() (T, error)
	close func(T)

	mu  sync.Mutex
	now *generation[T]
}

type generation[T any] struct {
	conns  T
	number uint64 // of the certificate it is for; it may make connections with a newer one
	calls  int    // under way
	old    bool   // another one has taken its place
}

func newPool[T any](open func() (T, error), closes func(T)) (*pool[T], error) {
	conns, err := open()
	if err != nil {
		return nil, err
	}
	return &pool[T]{open: open, close: closes, now: &generation[T]{conns: conns}}, nil
}

// take returns what to make a call by, or a fault that says why it cannot be made now. done has to be called when it has ended.
func take[T any](p *pool[T], s *security) (conns T, done func(), err error) {
	var number uint64
	if s != nil {
		if number, err = s.ready(); err != nil {
			return conns, nil, err
		}
	}
	return p.take(number)
}

// take returns what to make a call by, with the certificate of this number or a newer one. done has to be called when the
// call has ended.
func (p *pool[T]) take(number uint64) (conns T, done func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if number > p.now.number {
		conns, err := p.open()
		if err != nil {
			return conns, nil, err
		}
		p.retire()
		p.now = &generation[T]{conns: conns, number: number}
	}
	g := p.now
	g.calls++
	return g.conns, func() { p.give(g) }, nil
}

// give ends a call.
func (p *pool[T]) give(g *generation[T]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g.calls--; g.calls == 0 && g.old {
		p.close(g.conns)
	}
}

// retire closes the present generation as soon as its calls have ended. The caller holds mu.
func (p *pool[T]) retire() {
	p.now.old = true
	if p.now.calls == 0 {
		p.close(p.now.conns)
	}
}

// end closes what is open. No call is under way, and none comes.
func (p *pool[T]) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retire()
}
