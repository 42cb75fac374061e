"""Vault as the runner asks it: one suite for the real one and for the double; then what only a real one can do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from sluice_agent_runner.adapters.vault import VaultApi
from sluice_agent_runner.domain.secret import Secret
from sluice_agent_runner.ports import TokenUnknown, Vault, VaultAway, VaultRefused
from sluice_runtime.vault import names
from sluice_runtime.vault.client import VaultPlace
from tests.integration.agent_runner.real_vault import RealVault
from tests.unit.agent_runner.vault_double import VaultDouble

CONTEXT = "pipeline-1/agent-1/1"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVault]:
    directory: Path = tmp_path_factory.mktemp("vault")
    with RealVault(directory) as running:
        yield running


class There(Protocol):
    """What the suite does to a Vault."""

    def grant(self, queue: str, context: str) -> tuple[str, str]: ...
    def grant_without_entity(self, queue: str, context: str) -> tuple[str, str]: ...
    def revoke(self, token: str) -> None: ...


@pytest.fixture(params=["double", "real"])
def there(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("real") if request.param == "real" else VaultDouble()


def asks(there: Any, scenario: Callable[[Vault], Awaitable[None]]) -> None:
    async def run() -> None:
        if isinstance(there, VaultDouble):
            await scenario(there)
            return
        vault = there.vault()
        try:
            await scenario(vault)
        finally:
            await vault.close()

    asyncio.run(run())


def write_key(there: Any, provider: str, key: str) -> None:
    if isinstance(there, VaultDouble):
        there.keys[provider] = key
    else:
        there.write_key(provider, api_key=key)


@pytest.mark.covers("V4")
def test_a_grant_opens_for_its_queue_and_its_attempt_and_for_no_other(there: Any) -> None:
    sealed, token = there.grant("q", CONTEXT)

    async def scenario(vault: Vault) -> None:
        assert (await vault.open_grant("q", CONTEXT, sealed)).reveal() == token
        for queue, context, ciphertext in (
            ("another", CONTEXT, sealed),
            ("q", "pipeline-1/agent-1/2", sealed),
            ("q", "pipeline-1/agent-2/1", sealed),
            ("q", CONTEXT, "vault:v1:forged"),
            ("q", CONTEXT, sealed[:-8] + "AAAAAAA="),
            ("q", CONTEXT, ""),
        ):
            with pytest.raises(VaultRefused) as caught:
                await vault.open_grant(queue, context, ciphertext)
            assert token not in str(caught.value)

    asks(there, scenario)


@pytest.mark.covers("W3", "V5")
def test_a_token_reads_keys_until_it_is_revoked(there: Any) -> None:
    sealed, plain = there.grant("q", CONTEXT)
    write_key(there, "openrouter", "key-one")
    write_key(there, "broken", "")

    async def scenario(vault: Vault) -> None:
        token = await vault.open_grant("q", CONTEXT, sealed)
        key = await vault.read_key(token, "openrouter")
        assert key is not None
        assert key.reveal() == "key-one"
        write_key(there, "openrouter", "key-two")
        key = await vault.read_key(token, "openrouter")
        assert key is not None
        assert key.reveal() == "key-two"
        assert await vault.read_key(token, "nobody") is None
        with pytest.raises(VaultRefused):
            await vault.read_key(token, "broken")
        assert 3_500 < await vault.look_up(token) <= 3_600
        there.revoke(plain)
        with pytest.raises(TokenUnknown):
            await vault.read_key(token, "openrouter")
        with pytest.raises(TokenUnknown):
            await vault.look_up(token)

    asks(there, scenario)


@pytest.mark.covers("W3", "V2")
def test_a_token_whose_entity_is_gone_may_not_even_look_itself_up(there: Any) -> None:
    sealed, _ = there.grant_without_entity("q", CONTEXT)
    write_key(there, "openrouter", "key-one")

    async def scenario(vault: Vault) -> None:
        token = await vault.open_grant("q", CONTEXT, sealed)
        for call in (vault.read_key(token, "openrouter"), vault.look_up(token)):
            with pytest.raises((VaultRefused, TokenUnknown)):
                await call

    asks(there, scenario)


def test_what_a_policy_forbids_is_not_taken_for_a_revocation(real: RealVault) -> None:
    sealed, _ = real.grant("q", CONTEXT, policy=names.PARENT_POLICY)

    async def scenario(vault: Vault) -> None:
        token = await vault.open_grant("q", CONTEXT, sealed)
        with pytest.raises(VaultRefused, match="secret/data/api-keys/openrouter"):
            await vault.read_key(token, "openrouter")

    asks(real, scenario)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"key": "x"}, "no field 'api_key'"), ({"api_key": "a b"}, "one key"), ({"api_key": "x"}, "one key"),
        ({"api_key": "k" * 5_000}, "one key"), ({"api_key": "schlüssel"}, "one key"),
    ],
)  # fmt: skip
def test_a_secret_that_is_no_key_is_refused_by_its_path(real: RealVault, fields: dict[str, str], says: str) -> None:
    sealed, _ = real.grant("q", CONTEXT)
    real.write_key("odd", **fields)

    async def scenario(vault: Vault) -> None:
        token = await vault.open_grant("q", CONTEXT, sealed)
        with pytest.raises(VaultRefused, match=says) as caught:
            await vault.read_key(token, "odd")
        assert "secret/data/api-keys/odd" in str(caught.value)

    asks(real, scenario)


@pytest.mark.parametrize("plain", ["", "two words", "tokén", "x" * 5_000])
def test_what_was_sealed_and_is_no_token_is_refused(real: RealVault, plain: str) -> None:
    sealed = real.seal("q", CONTEXT, plain)

    async def scenario(vault: Vault) -> None:
        with pytest.raises(VaultRefused, match="no token"):
            await vault.open_grant("q", CONTEXT, sealed)

    asks(real, scenario)


def test_a_runner_that_vault_forgot_logs_in_anew_and_new_files_need_no_restart(real: RealVault, tmp_path: Path) -> None:
    sealed, token = real.grant("q", CONTEXT)
    good = real.place()
    secret_id = tmp_path / "secret-id"
    vault = VaultApi(replace(good, secret_id_file=secret_id))

    async def scenario() -> None:
        for content in (None, "", "nonsense", "x" * 9_999):
            if content is not None:
                secret_id.write_text(content)
            with pytest.raises(VaultAway, match="SLUICE_VAULT_SECRET_ID_FILE"):
                await vault.open_grant("q", CONTEXT, sealed)
        secret_id.write_text(good.secret_id_file.read_text())
        assert (await vault.open_grant("q", CONTEXT, sealed)).reveal() == token
        real.revoke(vault._connection._own.token.get_secret_value())
        opened = await asyncio.gather(*(vault.open_grant("q", CONTEXT, sealed) for _ in range(20)))
        assert {one.reveal() for one in opened} == {token}
        await vault.close()

    asyncio.run(scenario())


@pytest.mark.covers("V8")
def test_a_vault_that_is_sealed_killed_and_started_again(tmp_path: Path) -> None:
    with RealVault(tmp_path) as real:
        sealed, token = real.grant("q", CONTEXT)

        async def scenario(vault: Vault) -> None:
            held = await vault.open_grant("q", CONTEXT, sealed)

            async def unavailable() -> None:
                calls: list[Callable[[], Awaitable[Any]]] = [
                    lambda: vault.open_grant("q", CONTEXT, sealed),
                    lambda: vault.read_key(held, "openrouter"),
                    lambda: vault.look_up(held),
                ]
                for call in calls:
                    with pytest.raises(VaultAway):
                        await call()

            real.server.seal()
            await unavailable()
            real.server.unseal()
            assert await vault.look_up(held) > 0
            real.server.kill()
            await unavailable()
            real.server.restart()
            assert (await vault.open_grant("q", CONTEXT, sealed)).reveal() == token

        asks(real, scenario)


@asynccontextmanager
async def stub(answer: bytes | None) -> AsyncIterator[str]:
    """A server that answers everything so; None: it hangs."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await over.wait()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        over.set()
        server.close()


@pytest.mark.covers("V8")
def test_an_answer_that_lacks_what_was_asked_for_is_no_key_and_no_life(tmp_path: Path) -> None:
    """What else may come instead of an answer: tests/integration/runtime/test_vault_client.py."""
    empty = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

    async def scenario() -> None:
        async with stub(empty) as url:
            vault = VaultApi(VaultPlace(url, tmp_path / "id", tmp_path / "id"))
            with pytest.raises(VaultRefused, match="no field"):
                await vault.read_key(Secret("hvs.canary"), "openrouter")
            with pytest.raises(VaultAway, match="no ttl"):
                await vault.look_up(Secret("hvs.canary"))
            await vault.close()

    asyncio.run(scenario())


@pytest.mark.covers("V8")
def test_a_vault_that_hangs_keeps_no_more_than_its_own_threads_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with stub(None) as url:
            vault = VaultApi(VaultPlace(url, tmp_path / "id", tmp_path / "id", call_timeout_s=2))
            asking = [asyncio.create_task(vault.look_up(Secret("hvs.canary"))) for _ in range(100)]
            await asyncio.sleep(0.1)
            for _ in range(10):
                await asyncio.to_thread(json.dumps, {})  # the tools' threads are others
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            await vault.close()

    asyncio.run(scenario())


@pytest.mark.covers("W2", "V4")
def test_the_page_s_examples_open_a_grant(real: RealVault, tmp_path: Path) -> None:
    """What docs/producing.md tells other programs to do."""
    sealed, token = real.grant("q", CONTEXT)
    real.write_key("openrouter", api_key="key-one")
    page = (Path(__file__).resolve().parents[3] / "docs" / "producing.md").read_text()
    files = real.credentials.files("agent-runner")
    role_id, secret_id = (file.read_text().strip() for file in (files.role_id_file, files.secret_id_file))
    (python,) = re.findall(r"```python\n(import base64, hvac.*?)```", page, re.DOTALL)
    given: dict[str, Any] = {
        "VAULT_ADDR": real.url, "role_id": role_id, "secret_id": secret_id, "pipeline_id": "pipeline-1", "queue": "q",
        "run": {"agent_id": "agent-1", "attempt": 1, "grant": {"sealed": sealed}},
    }  # fmt: skip
    exec(python, given)
    assert given["key"] == "key-one"
    (shell,) = re.findall(r"```sh\n(login=.*?)```", page, re.DOTALL)
    if shutil.which("curl") is None or shutil.which("jq") is None:
        return
    (tmp_path / "role-id").write_text(role_id)
    (tmp_path / "secret-id").write_text(secret_id)
    environment = {
        "PATH": os.environ["PATH"], "VAULT_ADDR": real.url, "QUEUE": "q", "SEALED": sealed,
        "PIPELINE_ID": "pipeline-1", "AGENT_ID": "agent-1", "ATTEMPT": "1",
    }  # fmt: skip
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert done.stdout.decode() == token
