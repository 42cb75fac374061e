"""What the house promises about itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests import status

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(path.parent for path in (ROOT / "services").glob("*/pyproject.toml"))
MODULE_MAX_LINES = 420
"""About 400: more than one sitting is more than one subject."""


def committed() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.mark.covers("D1")
@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_a_service_is_whole_on_its_own(service: Path) -> None:
    for name in ("pyproject.toml", "requirements.lock", "Dockerfile", "README.md"):
        assert (service / name).is_file(), f"{service.name} lacks {name}"
    package = next((service / "src").glob("sluice_*"))
    parts = {path.stem for path in package.iterdir()}
    for name in ("__main__", "settings", "bootstrap", "entrypoints", "adapters", "domain"):
        assert name in parts, f"{package.name} lacks {name}"


def test_modules_have_one_subject() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in committed()
        if path.suffix == ".py" and (count := len(path.read_text().splitlines())) > MODULE_MAX_LINES
    }
    assert not long


def test_no_registry_and_no_machine_stands_in_a_file() -> None:
    # In pieces, so that this file is no hit itself.
    hosts = "|".join(["python" + "hosted", "pypi" + r"\.o", "npm" + r"js\.", "proxy" + r"\.go", "repo1?" + r"\.maven"])
    paths = r"(?<![\w.])/(" + "|".join(["work", "root", "farm"]) + ")/"
    found = []
    for path in committed():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [str(path.relative_to(ROOT)) for pattern in (hosts, paths) if re.search(pattern, text)]
    assert not found


def test_the_status_page_is_current() -> None:
    assert status.main(["--check"]) == 0, "run: python -m tests.status"


def test_requirements_are_pinned_by_hash_and_name_no_index() -> None:
    images = [ROOT / "libs" / "client", *SERVICES]
    locks = [*(ROOT / "requirements").glob("*.lock"), *(image / "requirements.lock" for image in images)]
    assert len(locks) >= 4 + len(images)
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text, lock
        pins = re.findall(r"^[a-z0-9][^ ]*==", text, re.M)
        assert pins, lock
        assert len(re.findall(r"--hash=sha256:", text)) >= len(pins), lock


@pytest.mark.parametrize("image", [ROOT / "libs" / "client", *SERVICES], ids=lambda path: path.name)
def test_an_image_takes_nothing_that_is_not_pinned_by_hash(image: Path) -> None:
    """What is ours has no dependencies resolved, and is built by the pinned build system."""
    commands = re.findall(r"pip (?:install|wheel)[^&\n]*(?:\\\n[^&\n]*)*", (image / "Dockerfile").read_text())
    assert len(commands) == 4
    for command in commands:
        assert "--require-hashes" in command or "--no-deps" in command, command
        assert "wheel " not in command or "--no-build-isolation" in command, command
