"""The shipped incident, and what is true of it, found without any agent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sluice_client.errors import InputInvalid

FOLDER = Path("examples/incident")
_ERROR = re.compile(r"^(?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?:ERROR|FATAL) ")


@dataclass(frozen=True, slots=True, order=True)
class FirstError:
    """The earliest line with an error. `place` is `file:line` as a report names it."""

    at: str
    place: str
    text: str

    def is_named_in(self, report: str) -> bool:
        """Whether a report names file and line, and not a line whose number only begins alike."""
        return re.search(rf"{re.escape(self.place)}(?!\d)", report) is not None


def shipped_directory(folder: Path, start: Path | None = None) -> Path | None:
    """The nearest folder of this name that has a plan, upwards from here or from this source; None if there is none."""
    here = (start or Path.cwd()).absolute()
    candidates = [one / folder for one in (here, *here.parents, *Path(__file__).resolve().parents)]
    return next((one for one in candidates if (one / "plan.yaml").is_file()), None)


def incident_directory(given: Path | None, start: Path | None = None) -> Path:
    """Where the incident is: as given, else the nearest `examples/incident`.

    Raises:
        InputInvalid: There is none.
    """
    found = shipped_directory(FOLDER, start) if given is None else given
    if found is not None and (found / "plan.yaml").is_file():
        return found
    here = (start or Path.cwd()).absolute()
    if given is not None:
        raise InputInvalid(
            f"incident {given}: there is no plan.yaml; write one: python3 {FOLDER}/generate.py --out {given}"
        )
    raise InputInvalid(
        f"incident {FOLDER} in {here} and above it: there is no plan.yaml; name the folder by --incident"
    )


def first_error(directory: Path) -> FirstError:
    """Reads all logs and finds the earliest error: what `grep` and `sort` would find.

    Raises:
        InputInvalid: No log has an error.
    """
    found = [
        FirstError(match["at"], f"logs/{log.relative_to(directory / 'logs')}:{number}", line)
        for log in sorted((directory / "logs").rglob("*.log"))
        for number, line in enumerate(log.read_text(errors="replace").splitlines(), 1)
        if (match := _ERROR.match(line))
    ]
    if not found:
        raise InputInvalid(f"incident {directory}: no log has an error; write it anew: python generate.py")
    return min(found)
