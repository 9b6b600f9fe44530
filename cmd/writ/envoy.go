package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/bootstrap"
	"github.com/writ-auth/writ/policy"
)

func (c *cli) envoy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "envoy",
		Short: "Print what Envoy needs to ask writ",
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args:  unknownCommand,
	}
	cmd.AddCommand(c.envoyBootstrap())
	return cmd
}

// bootstrapFlags are the flags of writ envoy bootstrap.
type bootstrapFlags struct {
	policies       []string
	config         string
	target         target
	serviceAccount string

	inbound, upstreams, gateways, routes []string

	bind, sds, authz, authzCA, admin, jwt string
	credentials, systemRoots              string
	connections                           int

	check bool
	envoy string
}

func (b *bootstrapFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&b.policies, "policies", "p", nil, "`path` of documents: file, directory, or - for standard input; repeatable")
	f.StringVarP(&b.config, "config", "c", "", "configuration `file` of the authority: trust domain, documents, authz and sds come from it")
	b.target.flags(cmd)
	f.StringVar(&b.serviceAccount, "service-account", "", "service account `name` of the workload, named to writ")

	f.StringArrayVar(&b.inbound, "inbound", nil, "`PORT:APP[:PROTOCOL]` where callers connect, where the application listens on 127.0.0.1, and http (default), http2 or tcp; repeatable")
	f.StringArrayVar(&b.upstreams, "upstream", nil, "`HOST:PORT[,…]` of a service that is called, with listen=PORT (default: its own), address=HOST:PORT, "+
		"identity=NAMESPACE/SERVICEACCOUNT and protocol=…; repeatable")
	f.StringArrayVar(&b.gateways, "gateway", nil, "`ns/name` of a Gateway document whose servers to open; repeatable")
	f.StringArrayVar(&b.routes, "route", nil, "`HOST=UPSTREAM` where a gateway sends requests for a host; repeatable, not needed with one --upstream")

	f.StringVar(&b.bind, "bind", "0.0.0.0", "`address` that callers connect to")
	f.StringVar(&b.sds, "sds", "", "`address` of the SDS socket (default: sds.listen of --config, or unix:///run/writ/agent.sock)")
	f.StringVar(&b.authz, "authz", "", "`address` where writ serve answers checks (default: authz.listen of --config, or 127.0.0.1:9191)")
	f.StringVar(&b.authzCA, "authz-ca", "", "PEM `file` to verify writ's certificate with: needed when it is on another machine")
	f.StringVar(&b.admin, "envoy-admin", "127.0.0.1:15000", "`address` of Envoy's own admin interface; '' for none")
	f.StringVar(&b.jwt, "jwt", "", "who verifies tokens, `verify` (writ) or metadata (Envoy) (default: authz.jwt of --config, or verify)")
	f.StringVar(&b.credentials, "credentials", "", "`directory` with NAME/tls.crt, NAME/tls.key and NAME/ca.crt for each credentialName")
	f.StringVar(&b.systemRoots, "system-roots", "/etc/ssl/certs/ca-certificates.crt", "PEM `file` of the roots that servers outside the mesh are verified with")
	f.IntVar(&b.connections, "max-connections", 50000, "connections of clients that Envoy takes at a time, as a `number`")

	f.BoolVar(&b.check, "check", false, "have Envoy validate the bootstrap before it is printed")
	f.StringVar(&b.envoy, "envoy", "envoy", "`path` of the Envoy that --check runs")
}

func (c *cli) envoyBootstrap() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bootstrap",
		Short: "Print an Envoy bootstrap for a workload, as the documents say",
		Long: "bootstrap prints a complete configuration for the Envoy of one workload: inbound ports with the TLS that its\n" +
			"PeerAuthentication says, services with the TLS that DestinationRules say, or the servers of its Gateways; certificates\n" +
			"over SDS, every request asked of writ. -o json is the same without comments.\n\n" +
			"Exit codes: 0 printed, 2 --check and Envoy refuses it, 3 a document asks for what cannot be had.",
		Example: "  writ envoy bootstrap -p ./policies --to coffee-shop/payment --labels app=payment-service --inbound 8080:9080 >envoy.yaml\n" +
			"  writ envoy bootstrap -p ./policies --to coffee-shop/order --labels app=order-service --inbound 8080:9080 \\\n" +
			"    --upstream payment:8081,identity=coffee-shop/payment-service,address=10.0.0.7:8080 --check",
		Args: cobra.NoArgs,
	}
	b := &bootstrapFlags{}
	b.flags(cmd)
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.printBootstrap(cmd, b, out) }
	return cmd
}

func (c *cli) printBootstrap(cmd *cobra.Command, b *bootstrapFlags, out *format) error {
	in, err := c.bootstrapConfig(cmd, b)
	if err != nil {
		return err
	}
	made, err := bootstrap.New(*in)
	if err != nil {
		return bootstrapError(err)
	}
	for _, warning := range made.Warnings {
		if _, err := fmt.Fprintf(c.err, "%s %s\n", c.colours(c.err).yellow("warning:"), printable(warning)); err != nil {
			return err
		}
	}
	if b.check {
		if err := validateBootstrap(cmd.Context(), b.envoy, made.YAML); err != nil {
			return err
		}
	}
	if out.value != "json" {
		_, err = c.out.Write(made.YAML)
		return err
	}
	var tree any
	if err := yaml.Load(made.YAML, &tree); err != nil {
		return err
	}
	return out.encode(c.out, tree)
}

// bootstrapError gives an error of package bootstrap its exit code, and the flags that mend it.
func bootstrapError(err error) error {
	var document *bootstrap.DocumentError
	var option *bootstrap.OptionError
	switch {
	case errors.As(err, &document) || errors.Is(err, policy.ErrBrokenTLS):
		return &exitError{code: exitInvalid, err: err}
	case errors.As(err, &option):
		return usagef("--%s %s", option.Option, option.Message)
	case errors.Is(err, policy.ErrUnknownLabels) || errors.Is(err, policy.ErrAmbiguous):
		return usagef("%w: --labels k=v,…, or --labels '' when it has none", err)
	}
	return err
}

// bootstrapConfig reads flags, configuration and documents.
func (c *cli) bootstrapConfig(cmd *cobra.Command, b *bootstrapFlags) (*bootstrap.Config, error) {
	if len(b.policies) == 0 && b.config == "" {
		return nil, usagef("envoy bootstrap: which documents? --policies PATH, or --config writ.yaml")
	}
	if err := onceStdin(b.policies...); err != nil {
		return nil, err
	}
	cfg := defaultConfig()
	if b.config != "" {
		loaded, err := c.loadConfig(b.config, nil)
		if err != nil {
			return nil, err
		}
		cfg = loaded
	}
	in := &bootstrap.Config{Mesh: cfg.mesh()}
	workload, err := b.target.resolve(cmd, &in.Mesh)
	if err != nil {
		return nil, err
	}
	if workload == nil {
		return nil, usagef("envoy bootstrap: for whom? --to namespace/name --labels k=v, or --workload FILE")
	}
	if b.serviceAccount != "" {
		if workload.ServiceAccount != "" && workload.ServiceAccount != b.serviceAccount {
			return nil, usagef("--service-account %s: --workload %s says %s", b.serviceAccount, b.target.file, workload.ServiceAccount)
		}
		if !dnsName.MatchString(b.serviceAccount) {
			return nil, usagef("--service-account %q: want the name of a service account, in lower-case letters, digits, dots and dashes", b.serviceAccount)
		}
		workload.ServiceAccount = b.serviceAccount
	}
	in.Workload = *workload
	if err := b.read(cfg, in); err != nil {
		return nil, err
	}
	paths := b.policies
	if len(paths) == 0 {
		if cfg.Documents == "" {
			return nil, usagef("envoy bootstrap: %s names no documents: --policies PATH", b.config)
		}
		paths = []string{cfg.Documents}
	}
	_, in.Snapshot, err = c.validDocuments(paths, in.Mesh)
	return in, err
}

// read takes over what flags say of listeners and of Envoy's surroundings.
func (b *bootstrapFlags) read(cfg *config, in *bootstrap.Config) error {
	var err error
	if in.Inbound, err = parseAll("--inbound", b.inbound, bootstrap.ParseInbound); err != nil {
		return err
	}
	if in.Routes, err = parseAll("--route", b.routes, bootstrap.ParseRoute); err != nil {
		return err
	}
	if in.Upstreams, err = parseAll("--upstream", b.upstreams, func(s string) (bootstrap.Upstream, error) {
		return bootstrap.ParseUpstream(s, in.Mesh.TrustDomain)
	}); err != nil {
		return err
	}
	in.Gateways = b.gateways
	if in.Bind, err = netip.ParseAddr(b.bind); err != nil {
		return usagef("--bind %q: want an IP address, such as 0.0.0.0", b.bind)
	}
	in.Proxy = bootstrap.Proxy{
		AuthzCA: b.authzCA, Credentials: b.credentials, SystemRoots: b.systemRoots, MaxConnections: b.connections,
	}
	return b.readProxy(cfg, in)
}

// readProxy finds writ and the agent: by flags, else by the configuration, else where they are by default.
func (b *bootstrapFlags) readProxy(cfg *config, in *bootstrap.Config) error {
	sds, checks, jwt := b.sds, b.authz, b.jwt
	if sds == "" && cfg.SDS != nil {
		sds = absoluteSocket(cfg.SDS.Listen)
	} else if sds == "" {
		sds = defaultAgentConfig().SDS.Listen
	}
	a := &authzConfig{}
	a.defaults()
	if cfg.Authz != nil {
		a = cfg.Authz
	}
	in.Proxy.TrustedHops = a.TrustedHops
	in.Proxy.RawPaths = extauthz.PathMode(a.Paths) == extauthz.PathsNone
	if checks == "" {
		checks = absoluteSocket(a.Listen)
		if a.TLS != nil && b.authzCA == "" {
			return usagef("authz.tls is set in %s: --authz-ca FILE says which roots writ's certificate is verified with", b.config)
		}
	}
	if jwt == "" {
		jwt = a.JWT
	}
	switch authz.TokenMode(jwt) {
	case authz.TokensVerify:
	case authz.TokensMetadata:
		in.Proxy.MetadataJWT = true
	default:
		return usagef("--jwt %q: want %s or %s%s", jwt, authz.TokensVerify, authz.TokensMetadata, didYouMean(jwt, []string{string(authz.TokensVerify), string(authz.TokensMetadata)}))
	}
	for _, address := range []struct {
		flag, value string
		to          *bootstrap.Address
	}{{"--sds", sds, &in.Proxy.SDS}, {"--authz", checks, &in.Proxy.Authz}, {"--envoy-admin", b.admin, &in.Proxy.Admin}} {
		if address.value == "" && address.flag == "--envoy-admin" {
			continue
		}
		var err error
		if *address.to, err = bootstrap.ParseAddress(address.value); err != nil {
			return usagef("%s %w", address.flag, err)
		}
	}
	if ip, err := netip.ParseAddr(in.Proxy.Authz.Host); err == nil && ip.IsUnspecified() { // where it listens; this machine is one of them
		in.Proxy.Authz.Host = "127.0.0.1"
	}
	return nil
}

// absoluteSocket makes the path of a Unix socket from a configuration file, which is relative to where we are if the
// file's name is, one that Envoy finds from wherever it starts. Other addresses stay as they are.
func absoluteSocket(address string) string {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok || strings.HasPrefix(path, "/") {
		return address
	}
	absolute, err := filepath.Abs(path)
	if err != nil { // the working directory is gone: refused as it is
		return address
	}
	return "unix://" + absolute
}

// parseAll reads every value of a repeatable flag.
func parseAll[T any](flag string, values []string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	for _, v := range values {
		one, err := parse(v)
		if err != nil {
			return nil, usagef("%s %w", flag, err)
		}
		out = append(out, one)
	}
	return out, nil
}
