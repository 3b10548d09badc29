// node-agent makes a container a node among several: the network between the nodes' pods, and volumes, which stay with their
// node or move with their pod. It runs once on every node, in the node's own network and with its file system under /host.
//
// It follows the API by watches, so that an idle cluster costs nothing. What it finds is looked at as a whole each time:
// there is little of it, and nothing can be missed.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io/ioutil"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	root        = "/host"
	networkFile = "/etc/cni/net.d/10-bridge.conflist"
	// Below /var, which kind keeps on disk: a volume outlives a restart of the node's container.
	volumes = "/var/local-path-provisioner"
	// One directory of the machine, in every node: what is there can be had from each, as storage in a network can.
	moving      = "/var/moving"
	provisioner = "redis-cluster-conformance/node-directory"
	// The routes of this program's making have it as their protocol.
	protocol = "143"
	again    = time.Second

	selectedNode  = "volume.kubernetes.io/selected-node"
	provisionedBy = "pv.kubernetes.io/provisioned-by"
	// Which node's agent looks after a volume.
	ofNode = "redis-cluster-conformance/node"
)

// The pods' network of one node. The entrypoint of the first control plane writes the same, for its own range.
const network = `{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{ "subnet": "%s" }]],
        "routes": [{ "dst": "%s" }]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
`

// What differs between a cluster of IPv4 and one of IPv6.
type family struct {
	is       func(net.IP) bool
	ip       string // the option of ip
	iptables string // the program
	all      string // every address
}

var (
	ipv4 = family{func(ip net.IP) bool { return ip.To4() != nil }, "-4", "iptables", "0.0.0.0/0"}
	ipv6 = family{func(ip net.IP) bool { return ip.To4() == nil }, "-6", "ip6tables", "::/0"}
)

type agent struct {
	name    string // the node's
	subnet  string // that of all pods
	family  family // the cluster's
	client  kubernetes.Interface
	nodes   corelisters.NodeLister
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	routed  string // what the network was made for
}

func main() {
	log.SetFlags(log.LstdFlags | log.LUTC)
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatalf("no service account: %v", err)
	}
	// The API server's own address, as kubelet knows it: the Service's works only once kube-proxy does.
	if kubelet, err := clientcmd.LoadFromFile(root + "/etc/kubernetes/kubelet.conf"); err == nil {
		for _, cluster := range kubelet.Clusters {
			config.Host = cluster.Server
		}
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatalf("no client: %v", err)
	}
	factory := informers.NewSharedInformerFactory(client, 0) // 0: no periodic resync, the watch is enough
	core, classes := factory.Core().V1(), factory.Storage().V1().StorageClasses()
	a := &agent{
		name:    os.Getenv("NODE_NAME"),
		subnet:  os.Getenv("POD_SUBNET"),
		client:  client,
		nodes:   core.Nodes().Lister(),
		claims:  core.PersistentVolumeClaims().Lister(),
		volumes: core.PersistentVolumes().Lister(),
		classes: classes.Lister(),
	}
	a.family = ipv4
	if ip, _, err := net.ParseCIDR(a.subnet); err == nil && ipv6.is(ip) {
		a.family = ipv6
	}
	changed := make(chan struct{}, 1)
	look := func() {
		select {
		case changed <- struct{}{}:
		default: // It will be looked at anyway.
		}
	}
	var synced []cache.InformerSynced
	for _, informer := range []cache.SharedIndexInformer{
		core.Nodes().Informer(), core.PersistentVolumeClaims().Informer(), core.PersistentVolumes().Informer(), classes.Informer(),
	} {
		informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(interface{}) { look() },
			UpdateFunc: func(interface{}, interface{}) { look() },
			DeleteFunc: func(interface{}) { look() },
		})
		synced = append(synced, informer.HasSynced)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	log.Printf("node %s, API at %s", a.name, config.Host)
	cache.WaitForCacheSync(stop, synced...)
	for range changed {
		for _, work := range []func() error{a.connect, a.provision, a.reclaim} {
			if err := work(); err != nil {
				log.Print(err)
				time.AfterFunc(again, look)
			}
		}
	}
}

// connect makes this node's network, and the ways to the pods of all others.
func (a *agent) connect() error {
	nodes, err := a.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	own, routes := "", map[string]string{}
	for _, node := range nodes {
		pods := a.podRange(node)
		if node.Name == a.name {
			own = pods
		} else if address := a.internal(node); pods != "" && address != "" {
			routes[pods] = address
		}
	}
	wanted := fmt.Sprint(own, routes) // maps are printed in the order of their keys
	if own == "" || wanted == a.routed {
		return nil // No range yet, or nothing new.
	}
	if err := a.route(routes); err != nil {
		return err
	}
	if err := a.masquerade(own); err != nil {
		return err
	}
	// Last: with it the node is Ready.
	if err := write(root+networkFile, fmt.Sprintf(network, own, a.family.all)); err != nil {
		return err
	}
	a.routed = wanted
	log.Printf("pods of this node: %s; of others: %v", own, routes)
	return nil
}

// route sets the routes, and removes those to nodes that are no more.
func (a *agent) route(routes map[string]string) error {
	for pods, address := range routes {
		if _, err := run("ip", a.family.ip, "route", "replace", pods, "via", address, "proto", protocol); err != nil {
			return err
		}
	}
	set, err := run("ip", a.family.ip, "route", "show", "proto", protocol)
	if err != nil {
		return err
	}
	for _, line := range strings.Split(set, "\n") {
		if words := strings.Fields(line); len(words) > 0 && routes[words[0]] == "" {
			if _, err := run("ip", a.family.ip, "route", "del", words[0], "proto", protocol); err != nil {
				return err
			}
		}
	}
	return nil
}

// masquerade gives what pods send out of the cluster the node's address. Among each other they are seen as themselves.
func (a *agent) masquerade(own string) error {
	rule := []string{"POSTROUTING", "-s", own, "!", "-d", a.subnet, "-m", "comment", "--comment", "node-agent", "-j", "MASQUERADE"}
	if _, err := run(a.family.iptables, append([]string{"-w", "-t", "nat", "-C"}, rule...)...); err == nil {
		return nil
	}
	_, err := run(a.family.iptables, append([]string{"-w", "-t", "nat", "-A"}, rule...)...)
	return err
}

// provision makes the volumes of the claims for which the scheduler has chosen this node.
func (a *agent) provision() error {
	claims, err := a.claims.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, claim := range claims {
		if claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil || claim.Annotations[selectedNode] != a.name ||
			claim.Spec.StorageClassName == nil {
			continue
		}
		class, err := a.classes.Get(*claim.Spec.StorageClassName)
		if errors.IsNotFound(err) || err == nil && class.Provisioner != provisioner {
			continue
		} else if err != nil {
			return err
		}
		name := "pvc-" + string(claim.UID)
		if _, err := a.volumes.Get(name); err == nil {
			continue // The controller has not bound it yet.
		}
		folder, stays := volumes, &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{
				Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{a.name},
			}},
		}}}}
		if class.Parameters["moves"] == "true" {
			folder, stays = moving, nil
		}
		path := filepath.Join(folder, name+"_"+claim.Namespace+"_"+claim.Name)
		if err := os.MkdirAll(root+path, 0o777); err != nil {
			return err
		}
		// Whatever the umask is: servers do not run as root.
		if err := os.Chmod(root+path, 0o777); err != nil {
			return err
		}
		policy := v1.PersistentVolumeReclaimDelete
		if class.ReclaimPolicy != nil {
			policy = *class.ReclaimPolicy
		}
		kind := v1.HostPathDirectoryOrCreate
		volume := &v1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisioner, ofNode: a.name}},
			Spec: v1.PersistentVolumeSpec{
				Capacity:                      v1.ResourceList{v1.ResourceStorage: claim.Spec.Resources.Requests[v1.ResourceStorage]},
				AccessModes:                   claim.Spec.AccessModes,
				VolumeMode:                    claim.Spec.VolumeMode,
				StorageClassName:              class.Name,
				PersistentVolumeReclaimPolicy: policy,
				PersistentVolumeSource:        v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path, Type: &kind}},
				ClaimRef: &v1.ObjectReference{
					Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
				},
				NodeAffinity: stays,
			},
		}
		_, err = a.client.CoreV1().PersistentVolumes().Create(context.TODO(), volume, metav1.CreateOptions{})
		if err != nil && !errors.IsAlreadyExists(err) {
			return fmt.Errorf("volume %s for claim %s/%s: %v", name, claim.Namespace, claim.Name, err)
		}
		log.Printf("volume %s for claim %s/%s: %s", name, claim.Namespace, claim.Name, path)
	}
	return nil
}

// reclaim deletes the volumes of this agent's making whose claims are gone, with all that is in them.
func (a *agent) reclaim() error {
	all, err := a.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, volume := range all {
		if volume.Annotations[provisionedBy] != provisioner || volume.Status.Phase != v1.VolumeReleased ||
			volume.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete ||
			volume.DeletionTimestamp != nil || volume.Annotations[ofNode] != a.name || volume.Spec.HostPath == nil {
			continue
		}
		path := filepath.Clean(volume.Spec.HostPath.Path)
		if filepath.Dir(path) != volumes && filepath.Dir(path) != moving {
			log.Printf("volume %s is left alone: %s is not of this program's making", volume.Name, path)
			continue
		}
		if err := os.RemoveAll(root + path); err != nil {
			return err
		}
		err := a.client.CoreV1().PersistentVolumes().Delete(context.TODO(), volume.Name, metav1.DeleteOptions{})
		if err != nil && !errors.IsNotFound(err) {
			return fmt.Errorf("deleting volume %s: %v", volume.Name, err)
		}
		log.Printf("volume %s is deleted", volume.Name)
	}
	return nil
}

// podRange is the range of a node's pods.
func (a *agent) podRange(node *v1.Node) string {
	for _, pods := range append([]string{node.Spec.PodCIDR}, node.Spec.PodCIDRs...) {
		if ip, _, err := net.ParseCIDR(pods); err == nil && a.family.is(ip) {
			return pods
		}
	}
	return ""
}

// internal is the address at which other nodes reach a node.
func (a *agent) internal(node *v1.Node) string {
	for _, address := range node.Status.Addresses {
		if ip := net.ParseIP(address.Address); address.Type == v1.NodeInternalIP && ip != nil && a.family.is(ip) {
			return address.Address
		}
	}
	return ""
}

// write puts a whole file there at once, and leaves one alone that is right.
func write(path, text string) error {
	if now, err := ioutil.ReadFile(path); err == nil && string(now) == text {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// A name that containerd does not read.
	if err := ioutil.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// run runs a program of the node.
func run(program string, arguments ...string) (string, error) {
	command := exec.Command("/usr/sbin/"+program, arguments...)
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	command.Dir = "/"
	var said, complaint bytes.Buffer
	command.Stdout, command.Stderr = &said, &complaint
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %v: %s", program, strings.Join(arguments, " "), err, strings.TrimSpace(complaint.String()))
	}
	return said.String(), nil
}
