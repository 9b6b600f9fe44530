package sds

// Running reports whether streams are told of changes yet.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running > 0
}
