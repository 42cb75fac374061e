// Vault's server without what a stack on one machine has no use for: no command line, no UI, one storage (raft), one
// login method (approle), two secrets engines (kv, transit), one audit device (file). It is started as the whole program
// is, `server -config=FILE`, and reads the same file, as JSON; so either can serve a data directory.
//
// Eight modules are replaced by stubs (go.mod): seals of clouds, discovery and container plugins, which are more than a
// third of all packages. Only Shamir's seal is left.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	log "github.com/hashicorp/go-hclog"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/physical/raft"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/vault"
)

const (
	readHeaderTimeout = 10 * time.Second
	// The supervisor waits longer before it kills.
	shutdownTimeout = 5 * time.Second
)

// config is the part of Vault's configuration file that is read here.
type config struct {
	Storage struct {
		Raft map[string]string `json:"raft"`
	} `json:"storage"`
	Listener struct {
		TCP struct {
			Address string `json:"address"`
		} `json:"tcp"`
	} `json:"listener"`
	APIAddr     string `json:"api_addr"`
	ClusterAddr string `json:"cluster_addr"`
}

// registry tells the core which plugins are built in. (Vault's own names all there are, and so compiles them all.)
type registry map[consts.PluginType]map[string]logical.Factory

func (r registry) Contains(name string, kind consts.PluginType) bool {
	_, found := r[kind][name]
	return found
}

func (r registry) Get(name string, kind consts.PluginType) (func() (interface{}, error), bool) {
	factory, found := r[kind][name]
	return func() (interface{}, error) { return factory, nil }, found
}

func (r registry) Keys(kind consts.PluginType) []string {
	names := make([]string, 0, len(r[kind]))
	for name := range r[kind] {
		names = append(names, name)
	}
	return names
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, kind)
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	settings, err := read(arguments)
	if err != nil {
		return err
	}
	logger := log.New(&log.LoggerOptions{Level: log.Info, Output: os.Stderr})
	coreConfig, err := newCoreConfig(settings, logger)
	if err != nil {
		return err
	}
	core, err := vault.NewCore(coreConfig)
	if err != nil {
		return err
	}
	cluster, err := clusterAddress(settings.ClusterAddr)
	if err != nil {
		return err
	}
	address := settings.Listener.TCP.Address
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{
		Core:           core,
		ListenerConfig: &configutil.Listener{Type: "tcp", Address: address, TLSDisable: true},
	})
	core.SetClusterListenerAddrs([]*net.TCPAddr{cluster})
	core.SetClusterHandler(handler)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: readHeaderTimeout}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	err = untilTold(coreConfig, logger, failed)
	// Not Shutdown and ShutdownDone: that channel is gone when the second is called.
	_ = core.ShutdownWait()
	limit, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	_ = server.Shutdown(limit)
	return err
}

func read(arguments []string) (config, error) {
	var settings config
	if len(arguments) == 0 || arguments[0] != "server" {
		return settings, errors.New("usage: server -config=FILE")
	}
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	file := flags.String("config", "", "the configuration, as JSON")
	if err := flags.Parse(arguments[1:]); err != nil {
		return settings, err
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		return settings, err
	}
	return settings, json.Unmarshal(text, &settings)
}

func newCoreConfig(settings config, logger log.Logger) (*vault.CoreConfig, error) {
	storage, err := raft.NewRaftBackend(settings.Storage.Raft, logger.Named("storage.raft"))
	if err != nil {
		return nil, err
	}
	highlyAvailable, ok := storage.(physical.HABackend)
	if !ok {
		return nil, errors.New("the raft storage offers no lock")
	}
	plugins := registry{
		consts.PluginTypeCredential: {"approle": approle.Factory},
		consts.PluginTypeSecrets:    {"kv": kv.Factory, "transit": transit.Factory},
	}
	return &vault.CoreConfig{
		Physical: storage,
		// Without it unsealing fails: "node is not the leader".
		HAPhysical:         highlyAvailable,
		StorageType:        "raft",
		Logger:             logger,
		DisableMlock:       true,
		RedirectAddr:       settings.APIAddr,
		ClusterAddr:        settings.ClusterAddr,
		CredentialBackends: plugins[consts.PluginTypeCredential],
		LogicalBackends:    plugins[consts.PluginTypeSecrets],
		AuditBackends:      map[string]audit.Factory{"file": audit.NewFileBackend},
		BuiltinRegistry:    plugins,
	}, nil
}

func clusterAddress(text string) (*net.TCPAddr, error) {
	address, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	return net.ResolveTCPAddr("tcp", address.Host)
}

// untilTold returns at SIGTERM or SIGINT, or when the server fails. At SIGHUP it opens the audit log anew, as the whole
// program does, so that the file may be renamed before.
func untilTold(settings *vault.CoreConfig, logger log.Logger, failed <-chan error) error {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	for {
		select {
		case err := <-failed:
			return err
		case number := <-told:
			if number != syscall.SIGHUP {
				return nil
			}
			reload(settings, logger)
		}
	}
}

func reload(settings *vault.CoreConfig, logger log.Logger) {
	settings.ReloadFuncsLock.RLock()
	defer settings.ReloadFuncsLock.RUnlock()
	for name, functions := range *settings.ReloadFuncs {
		for _, function := range functions {
			if err := function(); err != nil {
				logger.Error("could not be opened anew", "name", name, "error", err)
			}
		}
	}
}
