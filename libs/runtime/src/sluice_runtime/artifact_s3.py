"""Artifacts in an S3-compatible bucket: `<prefix>/<first two digits>/<hash>`.

Import this module only where S3 is used: the SDK takes a fifth of a second and tens of megabytes to load.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sluice_contracts.messages.base import ArtifactRef
from sluice_runtime.artifacts import (
    ARTIFACT_MAX_BYTES,
    DEFAULT_MEDIA_TYPE,
    ArtifactMissing,
    ArtifactStoreUnavailable,
    checked_body,
    checked_hash,
    checked_name,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

CONNECTIONS_MAX_COUNT = 16
"""Requests of one process that are under way at once; each may hold a body of 64 MiB."""

CONNECT_TIMEOUT_S = 5
"""A server in the same network answers in milliseconds; one that does not is away."""

READ_TIMEOUT_S = 30
"""Silence on an open connection; a large body keeps the connection busy."""

ATTEMPTS_MAX_COUNT = 3
"""The SDK's own tries, with its back-off, before the caller hears of it."""

HEAD_BEFORE_PUT_MIN_BYTES = 256 * 1024
"""Above this, asking whether the body is there costs less than sending it again."""


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """Keys for the bucket, from a JSON file {access_key_id, secret_access_key, session_token?}. Kept out of `repr`."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_file(cls, path: Path) -> S3Credentials:
        """Reads the keys.

        Raises:
            ValueError: The file is missing, unreadable, or of another form. The message shows no content.
        """
        try:
            content = json.loads(path.read_text())
            keys = cls(content["access_key_id"], content["secret_access_key"], content.get("session_token"))
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}; set SLUICE_ARTIFACTS_CREDENTIALS_FILE") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path}: expected a JSON object with access_key_id and secret_access_key") from None
        if not all(isinstance(key, str) and key for key in (keys.access_key_id, keys.secret_access_key)):
            raise ValueError(f"{path}: access_key_id and secret_access_key must be non-empty strings")
        return keys


class S3ArtifactStore:
    """A store in a bucket. Calls run in threads of this store's own, at most `CONNECTIONS_MAX_COUNT` at once.

    Guarantee: what `put` returned is as durable as the bucket. A body is one object, written whole or not at all.

    Args:
        bucket: It must exist.
        prefix: Before every key; may be empty.
        endpoint: Of an S3-compatible server; None takes the SDK's own.
        region: None takes the SDK's own, or `us-east-1`.
        credentials_file: See `S3Credentials`; None takes the SDK's own chain.

    Raises:
        ValueError: The endpoint or the credentials file is of another form.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        credentials_file: Path | None = None,
    ) -> None:
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
                raise ValueError("artifacts URL: endpoint must be http(s)://host:port, without credentials")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._name = f"s3://{bucket}/{prefix}"
        self._endpoint = endpoint
        self._region = region
        self._credentials = None if credentials_file is None else S3Credentials.from_file(credentials_file)
        self._threads = ThreadPoolExecutor(CONNECTIONS_MAX_COUNT, thread_name_prefix="artifacts")
        self._client: S3Client | None = None
        self._client_lock = threading.Lock()

    async def put(
        self, body: bytes, *, media_type: str = DEFAULT_MEDIA_TYPE, name: str | None = None, kind: str | None = None
    ) -> ArtifactRef:
        """See `ArtifactStore.put`."""
        digest = await self._run(lambda: self._put(body, media_type))
        return ArtifactRef(sha256=digest, size_bytes=len(body), media_type=media_type, name=name, kind=kind)

    async def get(self, sha256: str) -> bytes:
        """See `ArtifactStore.get`."""
        checked_name(sha256, self._name)
        return await self._run(lambda: self._get(sha256))

    def close(self) -> None:
        """Ends the threads once their calls are done; the store can't be used afterwards."""
        self._threads.shutdown()

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _s3(self) -> S3Client:
        with self._client_lock:  # making a client is not safe in two threads, using it is
            if self._client is None:
                keys = self._credentials
                session = boto3.session.Session(
                    aws_access_key_id=keys.access_key_id if keys else None,
                    aws_secret_access_key=keys.secret_access_key if keys else None,
                    aws_session_token=keys.session_token if keys else None,
                    region_name=self._region or ("us-east-1" if self._endpoint else None),
                )
                self._client = session.client(
                    "s3",
                    endpoint_url=self._endpoint,
                    config=Config(
                        connect_timeout=CONNECT_TIMEOUT_S,
                        read_timeout=READ_TIMEOUT_S,
                        retries={"total_max_attempts": ATTEMPTS_MAX_COUNT, "mode": "standard"},
                        max_pool_connections=CONNECTIONS_MAX_COUNT,
                        # A bucket as host name needs DNS that S3-compatible servers rarely have.
                        s3={"addressing_style": "path" if self._endpoint else "auto"},
                        # Newer checksums are refused by some servers; the hash is checked at every read.
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                    ),
                )
            return self._client

    def _key(self, digest: str) -> str:
        return f"{self._prefix}{digest[:2]}/{digest}"

    def _put(self, body: bytes, media_type: str) -> str:
        digest = checked_hash(body)
        try:
            if len(body) < HEAD_BEFORE_PUT_MIN_BYTES or not self._has(digest, len(body)):
                self._s3().put_object(Bucket=self._bucket, Key=self._key(digest), Body=body, ContentType=media_type)
        except (BotoCoreError, ClientError) as error:
            raise self._unavailable(f"store {digest} of {len(body)} bytes", error) from None
        return digest

    def _has(self, digest: str, size_bytes: int) -> bool:
        try:
            found = self._s3().head_object(Bucket=self._bucket, Key=self._key(digest))
        except ClientError as error:
            if _code(error) in ("404", "NoSuchKey", "NotFound"):
                return False
            raise
        return found["ContentLength"] == size_bytes

    def _get(self, digest: str) -> bytes:
        try:
            found = self._s3().get_object(Bucket=self._bucket, Key=self._key(digest))
            with found["Body"] as stream:
                body = stream.read(ARTIFACT_MAX_BYTES + 1)
        except ClientError as error:
            if _code(error) in ("404", "NoSuchKey", "NotFound"):
                raise ArtifactMissing(
                    f"artifact {digest} is not in {self._name}: it was never stored here; check SLUICE_ARTIFACTS_URL"
                ) from None
            raise self._unavailable(f"read {digest}", error) from None
        except BotoCoreError as error:
            raise self._unavailable(f"read {digest}", error) from None
        return checked_body(body, digest, self._name)

    def _unavailable(self, what: str, error: Exception) -> ArtifactStoreUnavailable:
        # Only the code or the class: the SDK's texts may quote keys, signatures and the environment.
        reason = _code(error) if isinstance(error, ClientError) else type(error).__name__
        return ArtifactStoreUnavailable(
            f"artifact store {self._name}: could not {what}: {reason}; "
            f"check that the bucket exists, the endpoint in SLUICE_ARTIFACTS_URL, and the credentials' rights"
        )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
