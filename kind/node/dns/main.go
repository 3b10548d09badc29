// cluster-dns answers for the names of a Kubernetes cluster: what kubeadm expects of the image "coredns", and no more.
//
// It holds Services and Endpoints in memory, kept current by a watch, so that a change is visible within milliseconds and
// an idle cluster costs nothing. Names outside the cluster's domain go to the servers of /etc/resolv.conf.
package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/miekg/dns"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	zone       = "cluster.local."
	ttl        = 5 // seconds; also how long "no such name" may be believed
	publishAll = "service.alpha.kubernetes.io/tolerate-unready-endpoints"
)

type server struct {
	services  listers.ServiceLister
	endpoints listers.EndpointsLister
	upstream  []string
}

func main() {
	log.SetFlags(log.LstdFlags | log.LUTC)
	// kubeadm's deployment passes the place of a Corefile. There is nothing to configure, so it is not read.
	flag.String("conf", "", "ignored")
	flag.Parse()

	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatalf("no service account: %v", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatalf("no client: %v", err)
	}
	factory := informers.NewSharedInformerFactory(client, 0) // 0: no periodic resync, the watch is enough
	core := factory.Core().V1()
	s := &server{services: core.Services().Lister(), endpoints: core.Endpoints().Lister(), upstream: upstreams()}
	synced := []cache.InformerSynced{core.Services().Informer().HasSynced, core.Endpoints().Informer().HasSynced}

	health := http.NewServeMux()
	health.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "OK") })
	go func() { log.Fatal(http.ListenAndServe(":8080", health)) }()
	ready := http.NewServeMux()
	ready.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		for _, done := range synced {
			if !done() {
				http.Error(w, "the first list of Services and Endpoints is not complete", http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprint(w, "OK")
	})
	go func() { log.Fatal(http.ListenAndServe(":8181", ready)) }()

	stop := make(chan struct{})
	factory.Start(stop)
	log.Printf("waiting for the API at %s", config.Host)
	// Before the lists are complete, a "no such name" would be a lie: nothing is answered until then.
	cache.WaitForCacheSync(stop, synced...)

	dns.HandleFunc(zone, s.answer)
	dns.HandleFunc(".", s.forward)
	log.Printf("serving %s, other names from %v", zone, s.upstream)
	go func() { log.Fatal((&dns.Server{Addr: ":53", Net: "tcp"}).ListenAndServe()) }()
	log.Fatal((&dns.Server{Addr: ":53", Net: "udp"}).ListenAndServe())
}

// answer serves a name of the cluster's domain.
func (s *server) answer(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg)
	reply.SetReply(request)
	reply.Authoritative = true
	question := request.Question[0]
	addresses, exists := s.lookup(question.Name)
	if !exists {
		reply.Rcode = dns.RcodeNameError
	}
	for _, address := range addresses {
		header := dns.RR_Header{Name: question.Name, Class: dns.ClassINET, Ttl: ttl}
		if ip4 := address.To4(); ip4 != nil && question.Qtype == dns.TypeA {
			header.Rrtype = dns.TypeA
			reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: ip4})
		} else if ip4 == nil && question.Qtype == dns.TypeAAAA {
			header.Rrtype = dns.TypeAAAA
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: header, AAAA: address})
		}
	}
	if len(reply.Answer) == 0 {
		// With NXDOMAIN and with "no record of this type" alike, the zone's SOA says for how long that may be believed.
		reply.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
			Ns:  "ns.dns." + zone, Mbox: "hostmaster." + zone, Serial: uint32(time.Now().Unix()),
			Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
		}}
	}
	rand.Shuffle(len(reply.Answer), func(i, j int) {
		reply.Answer[i], reply.Answer[j] = reply.Answer[j], reply.Answer[i]
	})
	send(w, request, reply)
}

// lookup gives the addresses of SERVICE.NAMESPACE.svc and HOSTNAME.SERVICE.NAMESPACE.svc, and whether there is such a name
// (or one below it) at all.
func (s *server) lookup(name string) ([]net.IP, bool) {
	name = strings.ToLower(strings.TrimSuffix(dns.Fqdn(name), zone))
	labelsOf := dns.SplitDomainName(name)
	n := len(labelsOf)
	switch {
	case n == 0, n == 1 && labelsOf[0] == "svc":
		return nil, true
	case labelsOf[n-1] != "svc" || n > 4:
		return nil, false
	case n == 2:
		services, err := s.services.Services(labelsOf[0]).List(labels.Everything())
		return nil, err == nil && len(services) > 0
	}
	service, err := s.services.Services(labelsOf[n-2]).Get(labelsOf[n-3])
	if err != nil {
		return nil, false
	}
	if n == 3 && service.Spec.ClusterIP != v1.ClusterIPNone {
		return parse(service.Spec.ClusterIP), true
	}
	endpoints, err := s.endpoints.Endpoints(service.Namespace).Get(service.Name)
	if err != nil {
		return nil, n == 3
	}
	var found []net.IP
	for _, subset := range endpoints.Subsets {
		addresses := subset.Addresses
		if service.Spec.PublishNotReadyAddresses || service.Annotations[publishAll] == "true" {
			addresses = append(addresses[:len(addresses):len(addresses)], subset.NotReadyAddresses...)
		}
		for _, address := range addresses {
			if n == 3 || hostname(address) == labelsOf[0] {
				found = append(found, parse(address.IP)...)
			}
		}
	}
	return found, n == 3 || len(found) > 0
}

// hostname is the pod's, where it has one (a StatefulSet's pods do), else its address with dashes.
func hostname(address v1.EndpointAddress) string {
	if address.Hostname != "" {
		return address.Hostname
	}
	return strings.NewReplacer(".", "-", ":", "-").Replace(address.IP)
}

func parse(address string) []net.IP {
	if ip := net.ParseIP(address); ip != nil {
		return []net.IP{ip}
	}
	return nil
}

// forward hands a name from outside to the upstream servers. With none of them, the answer is a quick "I cannot know".
func (s *server) forward(w dns.ResponseWriter, request *dns.Msg) {
	client := &dns.Client{Net: w.RemoteAddr().Network(), Timeout: 2 * time.Second}
	for _, upstream := range s.upstream {
		if reply, _, err := client.Exchange(request, upstream); err == nil {
			send(w, request, reply)
			return
		}
	}
	reply := new(dns.Msg)
	reply.SetRcode(request, dns.RcodeServerFailure)
	send(w, request, reply)
}

// upstreams are the servers of the node's resolv.conf, without loopback ones: those are the node's, not this pod's.
func upstreams() (found []string) {
	config, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		log.Printf("no upstream servers: %v", err)
		return nil
	}
	for _, address := range config.Servers {
		if ip := net.ParseIP(address); ip != nil && !ip.IsLoopback() {
			found = append(found, net.JoinHostPort(address, config.Port))
		}
	}
	return found
}

func send(w dns.ResponseWriter, request, reply *dns.Msg) {
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size := dns.MinMsgSize
		if edns := request.IsEdns0(); edns != nil {
			size = int(edns.UDPSize())
			if size > 1232 {
				size = 1232
			}
			if reply.IsEdns0() == nil {
				reply.SetEdns0(1232, false)
			}
		}
		for reply.Len() > size && len(reply.Answer) > 0 {
			// The asker comes back over TCP.
			reply.Truncated = true
			reply.Answer = reply.Answer[:len(reply.Answer)-1]
		}
	}
	if err := w.WriteMsg(reply); err != nil {
		log.Printf("no reply to %s: %v", w.RemoteAddr(), err)
	}
}
