package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/policy"
)

const maxWorkloadBytes = 1 << 20

// workloadFile says whom a request is for, and the mesh it lives in.
type workloadFile struct {
	Namespace          string            `yaml:"namespace"`
	Labels             map[string]string `yaml:"labels"`
	ServiceAccount     string            `yaml:"service_account"`
	TrustDomain        string            `yaml:"trust_domain"`
	TrustDomainAliases []string          `yaml:"trust_domain_aliases"`
	RootNamespace      string            `yaml:"root_namespace"`
}

// target is what the flags say of whom the request is for.
type target struct {
	file, to, labels string

	labelsGiven bool // --labels '' says the workload has none; without the flag they are unknown
}

func (t *target) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.file, "workload", "", "`file` that says whom the request is for (JSON or YAML)")
	f.StringVar(&t.to, "to", "", "the same by `ns/name`, or ns alone")
	f.StringVar(&t.labels, "labels", "", "labels of the workload named by --to, as `k=v,k=v`; '' when it has none")
}

// resolve returns the workload, or nil when the flags name none, and adjusts the mesh to what the file says of it.
func (t *target) resolve(cmd *cobra.Command, mesh *policy.Mesh) (*policy.Workload, error) {
	t.labelsGiven = cmd.Flags().Changed("labels")
	switch {
	case t.file != "" && (t.to != "" || t.labelsGiven):
		return nil, usagef("--workload and --to with --labels say the same: give one of them")
	case t.file != "":
		return t.read(mesh)
	case t.to != "":
		return t.parse()
	case t.labelsGiven:
		return nil, usagef("--labels needs --to: whose labels are they?")
	}
	return nil, nil
}

func (t *target) read(mesh *policy.Mesh) (*policy.Workload, error) {
	data, err := readBounded(t.file, maxWorkloadBytes)
	if err != nil {
		return nil, fmt.Errorf("--workload: %w", err)
	}
	w := workloadFile{TrustDomain: mesh.TrustDomain, TrustDomainAliases: mesh.TrustDomainAliases, RootNamespace: mesh.RootNamespace}
	d := newConfigDecoder(t.file)
	d.document(data, &w)
	if len(d.problems) == 0 && w.Namespace == "" {
		d.bad("namespace", "missing: write the namespace of the workload")
	}
	if len(d.problems) > 0 {
		return nil, &exitError{code: exitInvalid, err: configError(d.problems)}
	}
	mesh.TrustDomain, mesh.TrustDomainAliases, mesh.RootNamespace = w.TrustDomain, w.TrustDomainAliases, w.RootNamespace
	return &policy.Workload{Namespace: w.Namespace, Labels: w.Labels, ServiceAccount: w.ServiceAccount}, nil
}

func (t *target) parse() (*policy.Workload, error) {
	namespace, name, _ := strings.Cut(t.to, "/")
	if !dnsName.MatchString(namespace) || name != "" && !dnsName.MatchString(name) {
		return nil, usagef("--to %q: want namespace/name or namespace, in lower-case letters, digits, dots and dashes", t.to)
	}
	w := &policy.Workload{Namespace: namespace, Name: name}
	if !t.labelsGiven {
		return w, nil
	}
	w.Labels = map[string]string{}
	for pair := range strings.SplitSeq(t.labels, ",") {
		if pair == "" && t.labels == "" {
			break
		}
		k, v, ok := strings.Cut(pair, "=")
		if !ok || k == "" {
			return nil, usagef("--labels: %q: want key=value, separated by commas", pair)
		}
		if _, twice := w.Labels[k]; twice {
			return nil, usagef("--labels: %q is given twice", k)
		}
		w.Labels[k] = v
	}
	return w, nil
}

// dnsName is what Kubernetes takes as the name of an object.
var dnsName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
