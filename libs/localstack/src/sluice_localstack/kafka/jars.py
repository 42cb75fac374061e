"""Kafka's jars: downloaded once by `jars.lock`, checked by SHA-256 before each start.

A line of the lock is `group:artifact:version:classifier:packaging sha256`; no address stands in it: the Maven client
knows its registry. No POM is read, so nothing can be added to the set by the registry.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sluice_localstack.errors import ChecksumMismatch, DownloadFailed, SettingInvalid
from sluice_localstack.files import exclusive, private_directory
from sluice_localstack.progress import OnProgress, Step

DOWNLOADS_AT_ONCE = 8
"""Most of a small jar's time is the round trip: one after the other took 13 s, eight at once 4.6 s (46 jars, 44 MB)."""
DOWNLOAD_TIMEOUT_S = 30
"""Without a byte for that long a download has failed."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    classifier: str
    packaging: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name in the cache. The group is in it: two groups may use one artifact name."""
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.group}.{self.artifact}-{self.version}{classifier}.{self.packaging}"


Source = Callable[[Jar, Path], Path]
"""Downloads a jar into a directory and returns the file."""


def read_lock(text: str | None = None) -> tuple[Jar, ...]:
    """The jars of a lock file's text; of the package's own lock if none is given.

    Raises:
        SettingInvalid: A line is not of the form.
    """
    if text is None:
        text = resources.files(__package__).joinpath("jars.lock").read_text(encoding="utf-8")
    jars = []
    for number, line in enumerate(text.splitlines(), start=1):
        coordinate, _, digest = line.partition(" ")
        parts = coordinate.split(":")
        if len(parts) != 5 or len(digest) != 64:
            raise SettingInvalid(f"jars.lock line {number} is not 'g:a:v:c:p sha256': {line!r}; write the lock again")
        group, artifact, version, classifier, packaging = parts
        jars.append(Jar(group, artifact, version, classifier, packaging, digest))
    return tuple(jars)


def directory_of(jars: Iterable[Jar], cache: Path) -> Path:
    """The directory of exactly this set of jars: another lock has another directory, so versions live side by side."""
    digest = hashlib.sha256("\n".join(jar.sha256 for jar in jars).encode()).hexdigest()
    return cache / f"kafka-{digest[:12]}"


def class_path(jars: Iterable[Jar], cache: Path) -> str:
    """The class path, always in the lock's order: a shared class archive is valid for one order only."""
    jars = tuple(jars)
    directory = directory_of(jars, cache)
    return os.pathsep.join(str(directory / jar.file_name) for jar in jars)


def missing(jars: Iterable[Jar], cache: Path) -> list[Jar]:
    """The jars that are not in the cache, or are there with another content (read whole: about 0.1 s)."""
    jars = tuple(jars)
    directory = directory_of(jars, cache)
    return [jar for jar in jars if not _is_right(directory / jar.file_name, jar)]


def ensure_jars(jars: tuple[Jar, ...], cache: Path, on_progress: OnProgress, source: Source | None = None) -> Path:
    """Have all jars in the cache, each with the lock's checksum, and return their directory.

    Guarantee: a file gets its name only after its checksum was found right, by an atomic rename; so a killed download
    leaves nothing that counts as a jar, and the next call downloads only what is missing. Of several processes that
    call it at once, one downloads and the others wait.

    Args:
        jars: From `read_lock`.
        cache: From `cache_directory`.
        on_progress: One report for each jar.
        source: The registry; a test gives its own.

    Raises:
        ChecksumMismatch: The registry served another file than the lock names. It has been removed.
        DownloadFailed: A file could not be had.
    """
    directory = private_directory(directory_of(jars, cache))
    if not missing(jars, cache):
        return directory
    with exclusive(directory / "lock"):
        wanted = missing(jars, cache)
        _remove_leftovers(directory)
        with Step("download Kafka", on_progress, total=len(jars)) as step:
            step.advance(len(jars) - len(wanted))
            _download(wanted, directory, source or maven_source(), step)
    return directory


def _download(wanted: list[Jar], directory: Path, source: Source, step: Step) -> None:
    failed = threading.Event()

    def fetch(jar: Jar) -> int:
        return 0 if failed.is_set() else _fetch_one(jar, directory, source)

    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE, thread_name_prefix="jars") as pool:
        try:
            for future in as_completed([pool.submit(fetch, jar) for jar in wanted]):
                step.advance(bytes_done=future.result())
        except BaseException:
            failed.set()
            raise


def _fetch_one(jar: Jar, directory: Path, source: Source) -> int:
    scratch = Path(tempfile.mkdtemp(prefix="part-", dir=directory))
    try:
        file = source(jar, scratch)
        found = _sha256(file)
        if found != jar.sha256:
            raise ChecksumMismatch(
                f"{jar.file_name} has SHA-256 {found}, the lock says {jar.sha256}; the file was removed. "
                "Try again; if it stays so, do not change the lock before you know what the registry serves"
            )
        size = file.stat().st_size
        file.replace(directory / jar.file_name)
        return size
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_leftovers(directory: Path) -> None:
    """Drop what a killed download left; only the holder of the lock may."""
    for scratch in directory.glob("part-*"):
        shutil.rmtree(scratch, ignore_errors=True)


def maven_source() -> Source:
    """Downloads from the Maven client's registry."""
    from jgo.maven import MavenContext  # 0.8 s to import, and needed once on a machine

    def fetch(jar: Jar, scratch: Path) -> Path:
        component = MavenContext(repo_cache=scratch, timeout=DOWNLOAD_TIMEOUT_S).project(jar.group, jar.artifact)
        artifact = component.at_version(jar.version).artifact(classifier=jar.classifier, packaging=jar.packaging)
        try:
            return artifact.resolve()
        except Exception as error:
            raise DownloadFailed(
                f"{jar.file_name} could not be downloaded ({type(error).__name__}); check the network and the Maven "
                "client's settings, then start again: finished files are kept"
            ) from error

    return fetch


def _is_right(file: Path, jar: Jar) -> bool:
    try:
        return _sha256(file) == jar.sha256
    except FileNotFoundError:
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
