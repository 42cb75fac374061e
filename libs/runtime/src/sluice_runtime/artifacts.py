"""The artifact store: write-once bodies, named by the SHA-256 of their bytes (W7).

```
ArtifactError
├── ArtifactMissing            look elsewhere: no body has this hash
├── ArtifactCorrupt            restore the body; reading it again will not help
├── ArtifactTooLarge           store less
└── ArtifactStoreUnavailable   try again later; nothing is known about the body
```
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from sluice_contracts.messages.base import ArtifactRef

ARTIFACT_MAX_BYTES = 64 * 1024 * 1024
"""A body is held in memory whole, by its writer and by its reader; sixteen at once still fit into a small container."""

DEFAULT_MEDIA_TYPE = "text/plain; charset=utf-8"

_SHA256 = re.compile("[0-9a-f]{64}")


class ArtifactError(Exception):
    """Base of the artifact store's errors."""


class ArtifactMissing(ArtifactError):
    """No body has this hash: it was never stored, or the store is another one. Check `SLUICE_ARTIFACTS_URL`."""


class ArtifactCorrupt(ArtifactError):
    """The stored bytes do not have the hash that names them: restore the body from a backup, or delete it."""


class ArtifactTooLarge(ArtifactError):
    """The body has more than `ARTIFACT_MAX_BYTES`: split it, or store less."""


class ArtifactStoreUnavailable(ArtifactError):
    """The store did not do it: disk full, no permission, server away. Whether the body is stored is unknown."""


class ArtifactStore(Protocol):
    """Where bodies go that are too large for a message. Safe for use by several processes at once."""

    async def put(
        self, body: bytes, *, media_type: str = DEFAULT_MEDIA_TYPE, name: str | None = None, kind: str | None = None
    ) -> ArtifactRef:
        """Stores a body. Storing the same bytes again changes nothing.

        Guarantee: once this returns, every later `get` of the hash by any process returns exactly these bytes, through
        a kill -9 of the writer; a crash in the middle leaves no partial body under a hash.

        Raises:
            ArtifactTooLarge: The body has more than `ARTIFACT_MAX_BYTES`.
            ArtifactStoreUnavailable: The store did not do it; storing it again is safe.
        """
        ...

    async def get(self, sha256: str) -> bytes:
        """Reads a body and checks its hash.

        Raises:
            ArtifactMissing: The store has no such body, or `sha256` is no hash.
            ArtifactCorrupt: The bytes do not match the hash.
            ArtifactStoreUnavailable: The store could not be read.
        """
        ...


def checked_hash(body: bytes) -> str:
    """The name of a body that may be stored.

    Raises:
        ArtifactTooLarge: It may not.
    """
    if len(body) > ARTIFACT_MAX_BYTES:
        raise ArtifactTooLarge(f"artifact of {len(body)} bytes: at most {ARTIFACT_MAX_BYTES} are stored; split it")
    return sha256(body).hexdigest()


def checked_name(name: str, store: str) -> str:
    """A hash as it was asked for: it becomes part of a path, so nothing else may pass.

    Raises:
        ArtifactMissing: It is no SHA-256 in lower-case hexadecimal.
    """
    if not _SHA256.fullmatch(name):
        raise ArtifactMissing(f"{name[:80]!r} is not a SHA-256 in lower-case hexadecimal: {store} has nothing under it")
    return name


def checked_body(body: bytes, name: str, store: str) -> bytes:
    """A body as it was read.

    Raises:
        ArtifactCorrupt: It does not have the hash that names it.
    """
    if sha256(body).hexdigest() != name:
        raise ArtifactCorrupt(
            f"artifact {name} in {store}: its {len(body)} bytes have another hash; "
            f"restore it from a backup, or delete it so that it can be stored anew"
        )
    return body


def open_artifact_store(url: str, *, credentials_file: Path | None = None, durable: bool = False) -> ArtifactStore:
    """Opens the store that a URL names. An S3 client is made at its first use; nothing is asked of the server here.

    Args:
        url: `file:///absolute/directory`, or `s3://bucket/prefix?endpoint=<http(s) URL>&region=<name>`; both parameters
            may be left out.
        credentials_file: For S3, see `artifact_s3.S3Credentials`; without one the SDK's own chain is asked (instance
            role, workload identity).
        durable: For files, see `artifact_files.FileArtifactStore`.

    Raises:
        ValueError: The URL is of another form. The message shows the scheme, never the rest: it may hold a secret.
        ArtifactStoreUnavailable: The directory can't be used.
    """
    expected = "expected file:///absolute/directory or s3://bucket/prefix; set SLUICE_ARTIFACTS_URL"
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("the artifacts URL holds credentials; put them into the artifacts' credentials file")
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        from sluice_runtime.artifact_files import FileArtifactStore

        return FileArtifactStore(Path(unquote(parts.path)), durable=durable)
    if parts.scheme == "s3" and parts.netloc:
        # Here, so that a process without S3 does not load an SDK of tens of megabytes.
        from sluice_runtime.artifact_s3 import S3ArtifactStore

        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(parameters.keys() - {"endpoint", "region"})
        if unknown:
            raise ValueError(f"artifacts URL: parameter {unknown[0][:40]!r} is unknown; known are endpoint and region")
        return S3ArtifactStore(
            parts.netloc,
            prefix=unquote(parts.path).strip("/"),
            endpoint=parameters.get("endpoint"),
            region=parameters.get("region"),
            credentials_file=credentials_file,
        )
    raise ValueError(f"artifacts URL with scheme {parts.scheme[:20]!r}: {expected}")
