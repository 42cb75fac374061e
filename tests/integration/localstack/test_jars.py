"""Downloads: checked, resumed, safe when two start at once. The registry is a double; the cache is real."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest

from sluice_localstack import ChecksumMismatch, DownloadFailed, Progress, SettingInvalid, cache_directory
from sluice_localstack.kafka.jars import Jar, ensure_jars, missing, read_lock
from sluice_localstack.progress import silent

JARS = tuple(
    Jar("group", f"thing{number}", "1.0", "", "jar", hashlib.sha256(b"%d" % number).hexdigest()) for number in range(12)
)


class Registry:
    """Serves each jar's number; counts; spoils or refuses those it is told to."""

    def __init__(self, *, spoilt: tuple[str, ...] = (), refused: tuple[str, ...] = (), wait_s: float = 0.0) -> None:
        self.served: list[str] = []
        self._spoilt, self._refused, self._wait_s = spoilt, refused, wait_s

    def __call__(self, jar: Jar, scratch: Path) -> Path:
        time.sleep(self._wait_s)
        if jar.artifact in self._refused:
            raise DownloadFailed(f"{jar.file_name} could not be downloaded")
        self.served.append(jar.artifact)
        file = scratch / "file"
        file.write_bytes(b"spoilt" if jar.artifact in self._spoilt else jar.artifact.removeprefix("thing").encode())
        return file


def test_each_jar_is_reported_as_it_comes(tmp_path: Path) -> None:
    reports: list[Progress] = []
    directory = ensure_jars(JARS, tmp_path, reports.append, Registry())
    assert len(list(directory.glob("*.jar"))) == 12
    assert missing(JARS, tmp_path) == []
    assert [report.done for report in reports if report.done] == list(range(1, 13))
    assert (reports[-1].what, reports[-1].total, reports[-1].bytes_done) == ("download Kafka", 12, 14)


def test_a_wrong_checksum_stops_and_the_file_is_removed(tmp_path: Path) -> None:
    with pytest.raises(
        ChecksumMismatch, match=r"group.thing3-1.0.jar has SHA-256 \w+, the lock says \w+; the file was"
    ):
        ensure_jars(JARS, tmp_path, silent, Registry(spoilt=("thing3",)))
    assert not list(tmp_path.rglob("*thing3*"))
    assert not list(tmp_path.rglob("part-*"))


def test_what_was_finished_is_kept_and_the_rest_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed):
        ensure_jars(JARS, tmp_path, silent, Registry(refused=("thing11",)))
    killed = next(tmp_path.glob("kafka-*")) / "part-killed"
    killed.mkdir()
    (killed / "half").write_bytes(b"h")
    finished = 12 - len(missing(JARS, tmp_path))
    registry = Registry()
    ensure_jars(JARS, tmp_path, silent, registry)
    assert 0 < finished == 12 - len(registry.served)
    assert not killed.exists()


def test_a_file_that_rotted_in_the_cache_is_downloaded_again(tmp_path: Path) -> None:
    directory = ensure_jars(JARS, tmp_path, silent, Registry())
    (directory / JARS[5].file_name).write_bytes(b"rotten")
    registry = Registry()
    ensure_jars(JARS, tmp_path, silent, registry)
    assert registry.served == ["thing5"]
    assert missing(JARS, tmp_path) == []


def test_of_two_first_starts_one_downloads(tmp_path: Path) -> None:
    registry = Registry(wait_s=0.02)
    threads = [threading.Thread(target=ensure_jars, args=(JARS, tmp_path, silent, registry)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(registry.served) == sorted(jar.artifact for jar in JARS)


def test_the_lock_names_no_host_and_all_jars_once() -> None:
    jars = read_lock()
    assert len({jar.file_name for jar in jars}) == len(jars) == 46
    with pytest.raises(SettingInvalid, match="line 1 is not"):
        read_lock("kafka.jar 00")


def test_the_cache_is_private_and_a_setting(tmp_path: Path) -> None:
    directory = cache_directory({"SLUICE_CACHE_DIR": str(tmp_path / "deep" / "cache")})
    assert directory == tmp_path / "deep" / "cache"
    assert directory.stat().st_mode & 0o777 == 0o700
