"""Brings a Vault to what a table says: makes what is missing, sets what differs, deletes nothing, says what it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sluice_localstack.errors import ProvisioningFailed
from sluice_localstack.vault.connection import VaultClient
from sluice_localstack.vault.credentials import VaultCredentials
from sluice_localstack.vault.table import Mount, VaultTable
from sluice_runtime.vault.names import TOKEN_ACCESSOR, TRANSIT_MOUNT

State = Literal["created", "updated", "unchanged", "left"]


@dataclass(frozen=True, slots=True)
class Change:
    """What was done, or in a dry run would be, about one thing.

    `left`: nothing, because it is for whoever runs the Vault.
    """

    kind: str
    name: str
    state: State
    detail: str = ""


class Provisioning:
    """One table, one Vault.

    Guarantee: a second run changes nothing, and one that was killed is completed by the next. Everything is read before
    it is written, so that a run which finds all as it shall be writes nothing.

    Args:
        client: With the rights to do it.
        table: What the Vault shall hold.
        credentials: Where the services' files are written; None: none are made.
        audit_path: The `file_path` of the audit device, on the Vault's own machine; None: audit devices are left alone.
        dry_run: Only say what would be done.
    """

    def __init__(
        self,
        client: VaultClient,
        table: VaultTable,
        *,
        credentials: VaultCredentials | None,
        audit_path: str | None = None,
        dry_run: bool = False,
    ) -> None:
        self._client, self._table = client, table
        self._credentials, self._audit_path, self._dry_run = credentials, audit_path, dry_run

    def run(self) -> list[Change]:
        """Do it. Audit devices come first, so that all the rest is in the audit log.

        Raises:
            ProvisioningFailed: Something is there that can't be made what the table says.
            LoginRefused: The client may not do it.
            NotReady: The Vault does not answer.
        """
        return [
            *self._audit(),
            *(self._mount("auth method", "sys/auth", name, row) for name, row in self._table.auth.items()),
            *(self._mount("secrets engine", "sys/mounts", name, row) for name, row in self._table.secrets.items()),
            *(self._policy(name, text) for name, text in self._table.policies.items()),
            *(self._transit_key(name, row) for name, row in self._table.transit_keys.items()),
            *(
                self._role("token role", f"auth/token/roles/{name}", row)
                for name, row in self._table.token_roles.items()
            ),
            *(
                self._role("approle", f"auth/approle/role/{name}", row)
                for name, row in self._table.approle_roles.items()
            ),
            *self._service_credentials(),
        ]

    # -- what is on or off

    def _audit(self) -> Iterator[Change]:
        if self._audit_path is None:
            for name in self._table.audit:
                yield Change("audit device", name, "left", "for whoever runs the Vault: give its file's path there")
            return
        found = self._mounted("sys/audit")
        for name, row in self._table.audit.items():
            wanted = {"type": row.type, "options": {**row.options, "file_path": self._audit_path}}
            present = found.get(f"{name}/")
            same = present is not None and all(present[key] == value for key, value in wanted.items())
            if present is not None and not same:
                self._do(lambda name=name: self._client.delete(f"sys/audit/{name}"))
            if not same:
                self._do(lambda name=name, wanted=wanted: self._client.write(f"sys/audit/{name}", wanted))
            yield Change("audit device", name, _state(present is not None, same))

    def _mount(self, kind: str, path: str, name: str, row: Mount) -> Change:
        present = self._mounted(path).get(f"{name}/")
        if present is None:
            wanted: dict[str, Any] = {"type": row.type, "options": dict(row.options) or None}
            self._do(lambda: self._client.write(f"{path}/{name}", wanted))
            return Change(kind, name, "created")
        options = present.get("options") or {}
        if present["type"] != row.type or any(options.get(key) != value for key, value in row.options.items()):
            raise ProvisioningFailed(
                f"the {kind} {name}/ is of type {present['type']} {options}, the table says {row.type} "
                f"{dict(row.options)}; what is mounted holds data: move it away yourself"
            )
        return Change(kind, name, "unchanged")

    def _mounted(self, path: str) -> Mapping[str, Any]:
        found = self._client.read(path)
        return {} if found is None else dict(found["data"])

    # -- what is written

    def _policy(self, name: str, text: str) -> Change:
        if TOKEN_ACCESSOR in text:
            text = text.replace(TOKEN_ACCESSOR, self._mounted("sys/auth")["token/"]["accessor"])
        found = self._client.read(f"sys/policies/acl/{name}")
        same = found is not None and found["data"]["policy"] == text
        if not same:
            self._do(lambda: self._client.write(f"sys/policies/acl/{name}", {"policy": text}))
        return Change("policy", name, _state(found is not None, same))

    def _transit_key(self, name: str, row: Mapping[str, Any]) -> Change:
        path = f"{TRANSIT_MOUNT}/keys/{name}"
        found = self._read_below(path, f"{TRANSIT_MOUNT}/")
        if found is None:
            self._do(lambda: self._client.write(path, row))
            return Change("transit key", name, "created")
        wrong = {key: found[key] for key, value in row.items() if found.get(key) != value}
        if wrong:
            raise ProvisioningFailed(
                f"transit key {name} has {wrong}, the table says { ({key: row[key] for key in wrong}) }; that is "
                "fixed: give the queue another name, or delete the key when nothing is sealed with it any more"
            )
        return Change("transit key", name, "unchanged")

    def _role(self, kind: str, path: str, row: Mapping[str, Any]) -> Change:
        found = self._read_below(path, "approle/")
        different = {} if found is None else {key for key, value in row.items() if not _equal(found.get(key), value)}
        if found is None or different:
            self._do(lambda: self._client.write(path, row))
        detail = ", ".join(sorted(different))
        same = found is not None and not different
        return Change(kind, path.rpartition("/")[2], _state(found is not None, same), detail)

    def _read_below(self, path: str, mount: str) -> Mapping[str, Any] | None:
        """What a path answers; in a dry run its mount may be missing, and a path below that answers an error."""
        if self._dry_run and f"{mount}" not in {**self._mounted("sys/auth"), **self._mounted("sys/mounts")}:
            return None
        found = self._client.read(path)
        return None if found is None else dict(found["data"])

    # -- the services' logins

    def _service_credentials(self) -> Iterator[Change]:
        for role in self._table.services if self._credentials is not None else ():
            assert self._credentials is not None
            given = self._credentials.read(role)
            same = given is not None and self._still_good(role, *given)
            if not same:
                self._do(lambda role=role: self._new_secret_id(role))
            yield Change(
                "credentials", role, _state(given is not None, same), str(self._credentials.files(role).secret_id_file)
            )

    def _still_good(self, role: str, role_id: str, secret_id: str) -> bool:
        path = f"auth/approle/role/{role}"
        found = self._read_below(f"{path}/role-id", "approle/")
        if found is None or found["role_id"] != role_id:
            return False
        return bool(self._client.write(f"{path}/secret-id/lookup", {"secret_id": secret_id}))

    def _new_secret_id(self, role: str) -> None:
        assert self._credentials is not None
        path = f"auth/approle/role/{role}"
        role_id = self._read_below(f"{path}/role-id", "approle/")
        made = self._client.write(f"{path}/secret-id")
        if role_id is None or "data" not in made:
            raise ProvisioningFailed(f"Vault gives no SecretID of {role}; see whether its role exists, and apply again")
        self._credentials.write(role, role_id["role_id"], made["data"]["secret_id"])

    def _do(self, change: Any) -> None:
        if not self._dry_run:
            change()


def _state(present: bool, same: bool) -> State:
    return "unchanged" if same else "updated" if present else "created"


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return sorted(found or []) == sorted(wanted)
    return bool(found == wanted)
