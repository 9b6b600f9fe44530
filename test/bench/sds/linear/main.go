// Command linear serves one secret with go-control-plane's LinearCache and its xDS server, as they come: the peer that
// writ's SDS server is measured against. It is a module of its own so that writ does not depend on it.
//
// The first argument is the Unix socket to serve on, the others are files, each with a Secret message in binary. Every line
// on standard input puts the next of them in the place of the one before; the end of standard input ends the program.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"net"
	"os"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

func run(socket string, files []string) error {
	var secrets []*tlsv3.Secret
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		s := &tlsv3.Secret{}
		if err := proto.Unmarshal(b, s); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		secrets = append(secrets, s)
	}
	linear := cache.NewLinearCache(resource.SecretType, cache.WithInitialResources(map[string]types.Resource{secrets[0].Name: secrets[0]}))
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	grpcServer := grpc.NewServer()
	secretv3.RegisterSecretDiscoveryServiceServer(grpcServer, server.NewServer(context.Background(), linear, nil))
	served := make(chan error, 1)
	go func() { served <- grpcServer.Serve(listener) }()
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for n := 1; lines.Scan(); n++ {
		next := secrets[n%len(secrets)]
		if err := linear.UpdateResource(next.Name, next); err != nil {
			return err
		}
	}
	grpcServer.Stop()
	return <-served
}
