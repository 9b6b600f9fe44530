package policytest

import (
	"cmp"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// name is namespace/name of an object, whatever its kind.
type name struct{ namespace, name string }

// Accounts are the service accounts of registered workloads, by their names. The name of two with different accounts says
// nothing.
type Accounts map[name]string

// NewAccounts reads those of WorkloadEntry and WorkloadGroup documents.
func NewAccounts(docs []*policy.Document) Accounts {
	known := Accounts{}
	for _, d := range docs {
		account, workload := d.ServiceAccount()
		if !workload {
			continue
		}
		account = cmp.Or(account, policy.DefaultServiceAccount)
		of := name{d.Namespace, d.Name}
		if other, twice := known[of]; twice && other != account {
			account = ""
		}
		known[of] = account
	}
	return known
}

// Complete is the workload with the service account of the document that it is named by, if nothing else says whose labels it
// has: a person says the name where the certificate of a proxy says the account.
func (a Accounts) Complete(w policy.Workload) policy.Workload {
	if w.Labels == nil && w.ServiceAccount == "" {
		w.ServiceAccount = a[name{w.Namespace, w.Name}]
	}
	return w
}

// unlabelled says what is missing of a workload whose policies nobody can tell, "" if they can be told or the case is
// about just that. Its proxy says more in production, so the denial for want of it shows nothing.
func unlabelled(c *Case, d *authz.Decision) string {
	if c.Expect.Layer == authz.LayerSystem {
		return ""
	}
	switch d.Reason {
	case authz.ReasonUnknownLabels:
		return "the labels of " + c.Request.ToName + ", which no WorkloadEntry or WorkloadGroup has: write labels: {…}, or labels: {} for none"
	case authz.ReasonAmbiguousWorkload:
		return "the labels of " + c.Request.ToName + ", which several documents have: write labels: {…}, or its name"
	default:
		return ""
	}
}
