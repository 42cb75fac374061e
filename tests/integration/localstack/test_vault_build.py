"""How Vault's program is built, with a Go that only says what it would do; the real one builds for all other tests."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sluice_localstack import DownloadFailed, Progress, cache_directory
from sluice_localstack.progress import silent
from sluice_localstack.vault import build
from sluice_localstack.vault.build import ensure_program, program_path
from tests.integration.localstack.tools import runs, until

GO = """#!/bin/sh
echo "$1" >> "{calls}"
env > "{calls}.env"
case "$1" in
list) echo "go: downloading x v1" >&2; echo a; echo b; echo c
      mkdir -p "$GOMODCACHE/x"; head -c 1000000 /dev/zero > "$GOMODCACHE/x/y"; chmod -R a-w "$GOMODCACHE/x"
      sleep 1.5 ;;
build) {build}
      while [ "$1" != -o ]; do shift; done; echo a >&2; echo b >&2; printf program > "$2" ;;
esac
"""


def make_go(directory: Path, build: str = ":") -> tuple[Path, Path]:
    """A Go, and the file in which it notes how it was called."""
    calls, program = directory / "calls", directory / "go"
    program.write_text(GO.format(calls=calls, build=build))
    program.chmod(0o700)
    return program, calls


@pytest.mark.covers("D4")
def test_it_is_built_once_and_nothing_else_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, calls = make_go(tmp_path)
    monkeypatch.setenv("OPENROUTER_API_KEY", "a-secret")
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    reports: list[Progress] = []
    cache = tmp_path / "cache"
    program = ensure_program(cache, reports.append, go)
    assert program == program_path(cache) == ensure_program(cache, reports.append, Path("/never/called"))
    assert program.read_text() == "program"
    assert stat.S_IMODE(program.stat().st_mode) == 0o700
    assert calls.read_text().split() == ["list", "build"]
    assert {path.name for path in program.parent.iterdir()} <= {program.name, "lock", "build.log", "processes.json"}
    given = dict(line.split("=", 1) for line in (tmp_path / "calls.env").read_text().splitlines() if "=" in line)
    assert (given["GOFLAGS"], given["GOTOOLCHAIN"], given["CGO_ENABLED"]) == ("-mod=readonly", "local", "0")
    assert all(given[name].startswith(str(cache)) for name in ("GOMODCACHE", "GOCACHE", "GOPATH"))
    assert "OPENROUTER_API_KEY" not in given
    steps = [(one.what, one.done, one.total) for one in reports]
    assert steps[0] == ("download Vault's sources", 0, 1)
    assert steps[-1] == ("compile Vault (once on this machine)", 3, 3)
    assert max(one.bytes_done for one in reports) == 1_000_000


def test_what_fails_is_told_and_done_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    bad, _ = make_go(tmp_path, 'echo "verifying m: checksum mismatch" >&2; exit 1')
    with pytest.raises(DownloadFailed, match=r"(?s)go build ended with 1.*build\.log.*checksum mismatch"):
        ensure_program(cache, silent, bad)
    assert not program_path(cache).exists()
    assert not (program_path(cache).parent / "work").exists()
    assert "checksum mismatch" in (program_path(cache).parent / "build.log").read_text()
    good, _ = make_go(tmp_path)
    assert ensure_program(cache, silent, good).exists()


def test_several_at_once_build_once(tmp_path: Path) -> None:
    go, calls = make_go(tmp_path)
    code = "import sys; from pathlib import Path; from sluice_localstack.vault.build import ensure_program; "
    code += "print(ensure_program(Path(sys.argv[1]), lambda _: None, Path(sys.argv[2])))"
    argv = [sys.executable, "-c", code, str(tmp_path / "cache"), str(go)]
    others = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    own: list[Path] = []
    thread = threading.Thread(target=lambda: own.append(ensure_program(tmp_path / "cache", silent, go)))
    thread.start()
    outputs = {process.communicate(timeout=60)[0].strip() for process in others}
    thread.join()
    assert outputs == {str(own[0])}
    assert calls.read_text().split() == ["list", "build"]


@pytest.mark.covers("D4")
def test_a_killed_build_is_ended_and_begun_anew(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    slow, _ = make_go(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 600 & echo $! > {tmp_path}/child; wait")
    code = "import sys; from pathlib import Path; from sluice_localstack.vault.build import ensure_program; "
    code += "ensure_program(Path(sys.argv[1]), lambda _: None, Path(sys.argv[2]))"
    first = subprocess.Popen([sys.executable, "-c", code, str(cache), str(slow)])
    until(lambda: (tmp_path / "child").exists() and bool((tmp_path / "child").read_text().strip()))
    pids = [int((tmp_path / name).read_text()) for name in ("pid", "child")]
    first.send_signal(signal.SIGKILL)
    first.wait()
    until(lambda: not runs(pids[0]))  # with it, by the kernel
    fast, _ = make_go(tmp_path)
    assert ensure_program(cache, silent, fast).exists()
    assert not runs(pids[1])


def test_too_little_room_is_told_before(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="GiB free"):
        ensure_program(tmp_path, silent, Path("/never/called"), free_least_bytes=1 << 60)


@pytest.mark.covers("D4")
def test_the_program_is_the_one_of_these_sources() -> None:
    program = ensure_program(cache_directory(), silent)
    assert 30_000_000 < program.stat().st_size < 100_000_000
    assert os.access(program, os.X_OK)
    sums = (build.SOURCES / "go.sum").read_text().splitlines()
    modules = (build.SOURCES / "go.mod").read_text()
    assert len(sums) > 500
    assert all(len(line.split()) == 3 and line.split()[2].startswith("h1:") for line in sums)
    assert "://" not in modules
    assert "github.com/hashicorp/vault v1.21.0" in modules
