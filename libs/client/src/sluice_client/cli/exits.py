"""What the exit codes say. They are part of the command's interface: scripts decide by them."""

from __future__ import annotations

OK, ERROR, USAGE, FAILED, CANCELLED, REFUSED, UNREACHABLE, TIMED_OUT = 0, 1, 2, 3, 4, 5, 6, 7
INTERRUPTED = 130

EPILOG = (
    "Exit codes: 0 done (with --wait: COMPLETED) · 1 something is wrong here (doctor, demo, a stack that does not "
    "start) · 2 wrong arguments or files · 3 the pipeline FAILED · 4 it was CANCELLED · 5 refused · 6 nothing "
    "answers · 7 not ended in time · 130 interrupted."
)

OUTCOMES = {"COMPLETED": OK, "FAILED": FAILED, "CANCELLED": CANCELLED}
"""By the state in which a pipeline ended."""


def exit_code(error: Exception) -> int | None:
    """The exit code of an error that people can act on; None for a defect, which is shown whole."""
    from sluice_client import errors

    table: tuple[tuple[type[Exception], int], ...] = (
        (errors.InputInvalid, USAGE),
        (errors.NotRunning, UNREACHABLE),
        (errors.Unreachable, UNREACHABLE),
        (errors.Refused, REFUSED),
        (errors.TimedOut, TIMED_OUT),
        (errors.SluiceError, ERROR),
    )
    for kind, code in table:
        if isinstance(error, kind):
            return code
    return ERROR if type(error).__module__.startswith(("sluice_localstack", "sluice_runtime")) else None
