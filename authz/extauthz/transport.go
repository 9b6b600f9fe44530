package extauthz

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Transport settings. CheckRequests are small and answered at once, so flow control windows are fixed, which spares
// the bandwidth estimator's pings.
const (
	connectionTimeout = 10 * time.Second // for the TLS and HTTP/2 handshakes
	maxHeaderBytes    = 64 << 10         // of the call's own metadata
	streamWindow      = 1 << 20
	connectionWindow  = 16 << 20
	bufferSize        = 32 << 10

	// Workers keep their stacks, which a goroutine for each call would grow anew. Calls beyond them get one all the same.
	streamWorkers = 64

	// A connection is closed gracefully after this time, give or take a tenth, so that clients spread over new
	// replicas; calls on it have the grace to end.
	maxConnectionAge      = time.Hour
	maxConnectionAgeGrace = time.Minute

	keepaliveTime    = time.Minute // idle time before a connection is probed
	keepaliveTimeout = 20 * time.Second
	minClientPing    = 5 * time.Second // clients may probe this often, with or without calls
)

func (s *Server) serverOptions() []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(s.codec),
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxConcurrentStreams(s.maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ConnectionTimeout(connectionTimeout),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.ReadBufferSize(bufferSize),
		grpc.WriteBufferSize(bufferSize),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge:      maxConnectionAge,
			MaxConnectionAgeGrace: maxConnectionAgeGrace,
			Time:                  keepaliveTime,
			Timeout:               keepaliveTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             minClientPing,
			PermitWithoutStream: true,
		}),
	}
	creds := insecure.NewCredentials()
	if s.tls != nil {
		creds = credentials.NewTLS(s.tls)
	}
	if s.limiter != nil {
		creds = &gatedCredentials{creds, s, newShedAnswer(s.limiter.answer)}
		options = append(options, grpc.ReadBufferSize(0)) // the gate has a buffer
	}
	return append(options, grpc.Creds(creds))
}
