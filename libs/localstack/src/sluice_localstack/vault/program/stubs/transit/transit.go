package transit

import (
	"context"
	"errors"

	wrapping "github.com/hashicorp/go-kms-wrapping/v2"
)

const (
	EnvTransitWrapperDisableRenewal   = "TRANSIT_WRAPPER_DISABLE_RENEWAL"
	EnvTransitWrapperKeyName          = "TRANSIT_WRAPPER_KEY_NAME"
	EnvTransitWrapperMountPath        = "TRANSIT_WRAPPER_MOUNT_PATH"
	EnvVaultTransitSealDisableRenewal = "VAULT_TRANSIT_SEAL_DISABLE_RENEWAL"
	EnvVaultTransitSealKeyName        = "VAULT_TRANSIT_SEAL_KEY_NAME"
	EnvVaultTransitSealMountPath      = "VAULT_TRANSIT_SEAL_MOUNT_PATH"
)

var errNotBuilt = errors.New("this seal is not part of this build")

type Wrapper struct{ wrapping.Wrapper }

func NewWrapper() *Wrapper { return &Wrapper{} }

func (*Wrapper) SetConfig(context.Context, ...wrapping.Option) (*wrapping.WrapperConfig, error) {
	return nil, errNotBuilt
}

func noop() interface{} { return wrapping.OptionFunc(func(*wrapping.Options) error { return nil }) }

var _ = noop

func WithKeyIdPrefix(string) wrapping.Option { return noop }
