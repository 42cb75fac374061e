"""A second installation beside the first, and a second one in the same directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice_localstack import DirectoryInUse
from tests.faults.verifying import SETTINGS, WORK, verify
from tests.installation import PREFIX, SERVICES, Installation


@pytest.mark.covers("D4")
def test_two_installations_do_not_see_each_other(installation: Installation, tmp_path: Path) -> None:
    model = installation.scenario("work", WORK)
    with Installation(tmp_path, SETTINGS) as other:
        other.scenario("work", WORK)
        mine = [installation.spawn(model, tasks=2, dedupe_key=f"both-{number}") for number in range(4)]
        theirs = [other.spawn(model, tasks=2, dedupe_key=f"both-{number}") for number in range(4)]
        assert mine == theirs, "the same tenant and keys name the same pipelines"
        ports = [{stack.port(name) for name in SERVICES} for stack in (installation.stack, other.stack)]
        assert not ports[0] & ports[1]
        verify(other)
        verify(installation)
        assert {record.key.decode() for record in other.log.records["pipeline.events"] if record.key} == set(theirs)
        assert PREFIX == "sluice.", "the same names, in another cluster"


@pytest.mark.covers("D4")
def test_one_directory_has_one_installation(installation: Installation) -> None:
    pids = {name: installation.stack.pid(name) for name in SERVICES}
    second = Installation(installation.directory, SETTINGS)
    with pytest.raises(DirectoryInUse, match="is used by the running stack"):
        second.stack.start()
    assert {name: installation.stack.pid(name) for name in SERVICES} == pids
    installation.spawn(installation.scenario("work", WORK))
    verify(installation)
