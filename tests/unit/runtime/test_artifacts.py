"""One suite for every artifact store (W7), and what only one of them promises."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from sluice_runtime import artifact_files
from sluice_runtime.artifact_files import FileArtifactStore
from sluice_runtime.artifact_s3 import S3ArtifactStore, S3Credentials
from sluice_runtime.artifacts import (
    ARTIFACT_MAX_BYTES,
    ArtifactCorrupt,
    ArtifactMissing,
    ArtifactStore,
    ArtifactStoreUnavailable,
    ArtifactTooLarge,
    open_artifact_store,
)

BUCKET = "artifacts"
KEYS = {"access_key_id": "test-access", "secret_access_key": "test-secret-key"}


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real HTTP server on loopback that speaks S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def credentials_file(tmp_path: Path) -> Path:
    path = tmp_path / "s3.json"
    path.write_text(json.dumps(KEYS))
    return path


class Installation:
    """A store's place: opens the store anew, and damages what is in it."""

    def __init__(self, open_: Callable[[], ArtifactStore], overwrite: Callable[[str, bytes], None]) -> None:
        self.open = open_
        self.overwrite = overwrite


@pytest.fixture(params=["file", "file, durable", "s3"])
def installation(
    request: pytest.FixtureRequest, tmp_path: Path, credentials_file: Path, s3_endpoint: str
) -> Installation:
    if request.param != "s3":
        directory = tmp_path / "store"

        def overwrite_file(digest: str, body: bytes) -> None:
            (directory / digest[:2] / digest).write_bytes(body)

        durable = request.param == "file, durable"
        return Installation(lambda: open_artifact_store(directory.as_uri(), durable=durable), overwrite_file)

    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1",
                          aws_access_key_id="a", aws_secret_access_key="b")  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    url = f"s3://{BUCKET}/some/prefix?endpoint={s3_endpoint}&region=us-east-1"

    def overwrite_object(digest: str, body: bytes) -> None:
        client.put_object(Bucket=BUCKET, Key=f"some/prefix/{digest[:2]}/{digest}", Body=body)

    return Installation(lambda: open_artifact_store(url, credentials_file=credentials_file), overwrite_object)


BODIES = [b"", b"x", b"\x00\xff" * 700, b"0123456789abcdef" * 40_000]  # the last one takes the way through a thread


@pytest.mark.covers("W7")
@pytest.mark.parametrize("body", BODIES, ids=len)
def test_what_was_stored_is_read_by_another_process(installation: Installation, body: bytes) -> None:
    async def main() -> None:
        ref = await installation.open().put(body, media_type="text/markdown", name="report.md", kind="report")
        assert (ref.sha256, ref.size_bytes) == (sha256(body).hexdigest(), len(body))
        assert (ref.media_type, ref.name, ref.kind) == ("text/markdown", "report.md", "report")
        assert await installation.open().get(ref.sha256) == body

    asyncio.run(main())


@pytest.mark.covers("W7")
def test_the_same_body_is_stored_once(installation: Installation) -> None:
    async def main() -> None:
        store = installation.open()
        refs = await asyncio.gather(*(store.put(b"y" * size) for size in (10, 300_000) for _ in range(8)))
        assert len({ref.sha256 for ref in refs}) == 2
        for ref in refs:
            assert len(await store.get(ref.sha256)) == ref.size_bytes

    asyncio.run(main())


@pytest.mark.covers("W7")
@pytest.mark.parametrize("damaged", [b"", b"abd", b"abcabc"], ids=["emptied", "same length", "longer"])
def test_a_damaged_body_is_never_returned(installation: Installation, damaged: bytes) -> None:
    async def main() -> None:
        store = installation.open()
        ref = await store.put(b"abc")
        installation.overwrite(ref.sha256, damaged)
        with pytest.raises(ArtifactCorrupt, match=ref.sha256):
            await store.get(ref.sha256)
        if len(damaged) != 3:  # a file of the right length is not read before it is found to be there
            await store.put(b"abc")
            assert await store.get(ref.sha256) == b"abc"

    asyncio.run(main())


@pytest.mark.covers("W7")
@pytest.mark.parametrize(
    "name", ["0" * 64, "", "0" * 63, "A" * 64, "0" * 64 + "\n", "../../etc/passwd", "../" + "0" * 61, "\x00" * 64]
)
def test_what_is_not_there_is_missing(installation: Installation, name: str) -> None:
    with pytest.raises(ArtifactMissing):
        asyncio.run(installation.open().get(name))


@pytest.mark.covers("W7")
def test_a_body_over_the_limit_is_refused(installation: Installation) -> None:
    with pytest.raises(ArtifactTooLarge, match=str(ARTIFACT_MAX_BYTES)):
        asyncio.run(installation.open().put(bytes(ARTIFACT_MAX_BYTES + 1)))


# --- files -----------------------------------------------------------------------------------------------------------


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "store"
    asyncio.run(FileArtifactStore(directory).put(b"abc"))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    (file,) = files_below(directory)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_store_that_can_not_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactStoreUnavailable, match="SLUICE_ARTIFACTS_URL"):
        FileArtifactStore(tmp_path / "file" / "store")


def test_a_failed_write_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    async def main() -> None:
        store = FileArtifactStore(tmp_path)
        blocker = tmp_path / sha256(b"abc").hexdigest()[:2]
        blocker.write_text("in the way")
        with pytest.raises(ArtifactStoreUnavailable, match="free space and permissions"):
            await store.put(b"abc")
        assert files_below(tmp_path) == [blocker]
        blocker.unlink()
        ref = await store.put(b"abc")
        assert await store.get(ref.sha256) == b"abc"

    asyncio.run(main())


def test_no_symbolic_link_is_followed(tmp_path: Path) -> None:
    async def main() -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(b"abc")
        store = FileArtifactStore(tmp_path / "store")
        digest = sha256(b"abc").hexdigest()
        (tmp_path / "store" / digest[:2]).mkdir()
        (tmp_path / "store" / digest[:2] / digest).symlink_to(secret)
        with pytest.raises(ArtifactStoreUnavailable):
            await store.get(digest)

    asyncio.run(main())


def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    FileArtifactStore(tmp_path)
    old, young = tmp_path / "tmp" / "1-abc-0", tmp_path / "tmp" / "2-def-0"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    past_s = young.stat().st_mtime - artifact_files.ABANDONED_AFTER_S - 60
    os.utime(old, (past_s, past_s))
    FileArtifactStore(tmp_path)
    assert not old.exists()
    assert young.exists()


WRITER = """
import asyncio, sys
from pathlib import Path
from sluice_runtime.artifact_files import FileArtifactStore
async def main():
    store = FileArtifactStore(Path(sys.argv[1]))
    number = 0
    while True:
        ref = await store.put(b"%d" % number * 5000)
        print(number, ref.sha256, flush=True)
        number += 1
asyncio.run(main())
"""


@pytest.mark.covers("W7")
def test_a_killed_writer_leaves_whole_bodies_only(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(300)]
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.readlines()
    reader = FileArtifactStore(tmp_path)
    for line in told:
        if not line.endswith("\n"):
            continue  # the kill came in the middle of the line
        number, digest = line.split()
        assert asyncio.run(reader.get(digest)) == number.encode() * 5000
    for file in files_below(tmp_path):
        if file.parent.name != "tmp":
            assert sha256(file.read_bytes()).hexdigest() == file.name


@pytest.mark.needs("mount")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount a small file system")
@pytest.mark.covers("W7")
def test_a_full_disk_is_said_and_leaves_no_partial_body(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        store = FileArtifactStore(tmp_path)

        async def main() -> None:
            kept = await store.put(b"a" * 100_000)
            with pytest.raises(ArtifactStoreUnavailable, match="No space left"):
                await store.put(b"b" * 200_000)
            assert await store.get(kept.sha256) == b"a" * 100_000
            assert len(files_below(tmp_path)) == 1
            await store.put(b"c" * 50_000)

        asyncio.run(main())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# --- S3 --------------------------------------------------------------------------------------------------------------


def test_a_bucket_that_is_not_there_is_said_without_the_keys(credentials_file: Path, s3_endpoint: str) -> None:
    store = S3ArtifactStore("nowhere", endpoint=s3_endpoint, credentials_file=credentials_file)
    with pytest.raises(ArtifactStoreUnavailable, match="NoSuchBucket") as caught:
        asyncio.run(store.put(b"abc"))
    assert not any(key in str(caught.value) for key in KEYS.values())
    store.close()


def test_a_server_that_is_away_is_unavailable(credentials_file: Path, free_port: int) -> None:
    store = S3ArtifactStore("artifacts", endpoint=f"http://127.0.0.1:{free_port}", credentials_file=credentials_file)
    with pytest.raises(ArtifactStoreUnavailable, match="EndpointConnectionError") as caught:
        asyncio.run(store.get("0" * 64))
    assert not any(key in str(caught.value) for key in KEYS.values())
    store.close()


@pytest.mark.parametrize(
    "content",
    [
        "", "not json: hunter2", "[]", '{"access_key_id": "hunter2"}',
        '{"access_key_id": "", "secret_access_key": "hunter2"}',
    ],
)  # fmt: skip
def test_a_credentials_file_of_another_form_is_refused_without_its_content(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"keys\.json") as caught:
        S3Credentials.from_file(path)
    assert "hunter2" not in str(caught.value)


def test_keys_are_not_shown(credentials_file: Path) -> None:
    assert "test-" not in repr(S3Credentials.from_file(credentials_file))


def test_a_service_with_files_does_not_load_the_s3_sdk(tmp_path: Path) -> None:
    code = (
        "import sys; from sluice_runtime.artifacts import open_artifact_store;"
        f"open_artifact_store({tmp_path.as_uri()!r}); sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "url",
    [
        "", "store", "/store", "file://host/store", "file:store", "http://127.0.0.1/x", "s3://", "s3:///prefix",
        "s3://key:hunter2@bucket/x", "s3://bucket/x?secret=hunter2", "s3://bucket/x?endpoint=ftp://127.0.0.1",
        "s3://bucket/x?endpoint=http://key:hunter2@127.0.0.1",
    ],
)  # fmt: skip
def test_a_url_of_another_form_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="artifacts URL") as caught:
        open_artifact_store(url)
    assert "hunter2" not in str(caught.value)
