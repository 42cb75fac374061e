"""Commands about a pipeline that there is: tick, answer, cancel."""

from __future__ import annotations

from typing import Annotated

import typer

from sluice_client.cli import options, output


def tick(
    pipeline_id: options.PipelineId, url: options.Url = None, data: options.Data = None, as_json: options.AsJson = False
) -> None:
    """Have a pipeline looked at again now: what is due is done, what is lost is assigned again."""
    with options.client(url, data) as sluice:
        output.told(sluice.tick(pipeline_id), f"pipeline {pipeline_id} will be looked at", as_json)


def answer(
    pipeline_id: options.PipelineId,
    text: Annotated[str, typer.Argument(metavar="ANSWER", help="The answer.")],
    question: Annotated[
        str | None, typer.Option("--question", metavar="ID", help="Which one, where several are pending.")
    ] = None,
    wait_s: options.WaitS = 10,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Answer a question of a pipeline; the first answer counts."""
    from sluice_client.errors import InputInvalid

    with options.client(url, data) as sluice:
        if question is None:
            pending = sluice.status(pipeline_id)["questions"]
            if len(pending) != 1:
                known = "; ".join(f"{one['question_id']}: {one['question']}" for one in pending.values())
                raise InputInvalid(
                    f"pipeline {pipeline_id} has {len(pending)} pending questions"
                    + (f"; name one by --question: {known}" if pending else "; there is nothing to answer")
                )
            question = next(iter(pending))
        accepted = sluice.answer(pipeline_id, question, text, wait_s=wait_s)
        output.told(accepted, f"pipeline {pipeline_id} {'has' if accepted.state else 'will have'} the answer", as_json)


def cancel(
    pipeline_id: options.PipelineId,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; it stands in the terminal event.")] = None,
    wait_s: options.WaitS = 10,
    url: options.Url = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """End a pipeline; its agents are stopped."""
    with options.client(url, data) as sluice:
        accepted = sluice.cancel(pipeline_id, reason=reason, wait_s=wait_s)
        output.told(
            accepted, f"pipeline {pipeline_id} {f'is {accepted.state}' if accepted.state else 'will end'}", as_json
        )


def add_to(app: typer.Typer) -> None:
    """Makes the commands known."""
    for command in (tick, answer, cancel):
        app.command()(command)
