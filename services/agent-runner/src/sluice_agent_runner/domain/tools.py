"""The tools that an agent can be granted: what they are called, what they take, what they touch (W4).

A tool's arguments are a class; its JSON Schema is made from it, and a call's arguments are checked by it, so that what
the model is told and what is accepted can't differ. How a tool works is the adapters' business (`ports.Tools`), except
for those that the turn loop itself answers: `finish`, and what an agent asks of others, people or the blackboard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sluice_agent_runner.domain import limits
from sluice_contracts.constraints import NO_SECRETS, READ_ONLY, SANDBOX_ONLY
from sluice_contracts.limits import COUNT_MAX

Effect = Literal["write", "network", "secrets"]
"""What a tool may touch besides reading its workspace."""

FORBIDDEN_BY: Mapping[str, frozenset[Effect]] = {
    READ_ONLY: frozenset({"write"}),
    SANDBOX_ONLY: frozenset({"network"}),
    NO_SECRETS: frozenset({"secrets"}),
}
"""Which effects a constraint (P3) forbids."""

READ_LINES_DEFAULT_COUNT = 200
READ_LINES_MAX_COUNT = 2_000
SEARCH_MATCHES_DEFAULT_COUNT = 50
SEARCH_MATCHES_MAX_COUNT = 500

FilePath = Annotated[str, Meta(description="Relative to the workspace, as list_files shows it.", max_length=255)]


class ListFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of list_files."""

    path: Annotated[str, Meta(description="A folder of the workspace; . is all of it.", max_length=255)] = "."


class ReadFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of read_file."""

    path: FilePath
    offset: Annotated[int, Meta(ge=1, le=1_000_000_000, description="The first line to read, from 1.")] = 1
    limit: Annotated[int, Meta(ge=1, le=READ_LINES_MAX_COUNT, description="Lines to read.")] = READ_LINES_DEFAULT_COUNT


class SearchFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of search_files."""

    pattern: Annotated[
        str, Meta(min_length=1, max_length=1_000, description="A regular expression (RE2), searched line by line.")
    ]
    path: Annotated[str, Meta(description="A file or folder to search in; . is all.", max_length=255)] = "."
    ignore_case: Annotated[bool, Meta(description="Whether upper and lower case are the same.")] = False
    max_matches: Annotated[
        int, Meta(ge=1, le=SEARCH_MATCHES_MAX_COUNT, description="Matching lines to return.")
    ] = SEARCH_MATCHES_DEFAULT_COUNT  # fmt: skip


class WriteArtifact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of write_artifact."""

    name: Annotated[str, Meta(description="Its file name, such as report.md.", min_length=1, max_length=255)]
    kind: Annotated[
        str,
        Meta(description="requirements, plan, design, schema, code, review, report, …", min_length=1, max_length=64),
    ]
    content: Annotated[
        str, Meta(description="The whole text.", max_length=limits.ARTIFACT_CONTENT_MAX_CHARACTERS)
    ]  # fmt: skip


class Finish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of finish."""

    summary: Annotated[
        str,
        Meta(
            description="The outcome in a few sentences, for those who go on from it.", min_length=1, max_length=4_000
        ),
    ]
    result: Annotated[
        Any, Meta(description="The whole result: a text, or JSON where the task gives a schema. Default: the summary.")
    ] = None


class AskHuman(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of ask_human."""

    question: Annotated[str, Meta(min_length=1, max_length=limits.QUESTION_MAX_CHARACTERS)]
    options: Annotated[
        tuple[Annotated[str, Meta(max_length=limits.OPTION_MAX_CHARACTERS)], ...],
        Meta(description="Answers to choose from.", max_length=limits.OPTIONS_MAX_COUNT),
    ] = ()
    default: Annotated[
        Annotated[str, Meta(max_length=limits.ANSWER_MAX_CHARACTERS)] | None,
        Meta(description="The answer that is taken if nobody answers in time."),
    ] = None


BoardKey = Annotated[
    str,
    Meta(
        description="Letters, digits, . _ -, such as cause or plan.database.",
        max_length=limits.BOARD_NAME_MAX_CHARACTERS,
    ),
]
BoardVersion = Annotated[
    int, Meta(ge=0, le=COUNT_MAX, description="The version that you have read; 0: the key does not exist yet.")
]


class BlackboardGet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of blackboard_get."""

    key: BoardKey


class BlackboardList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of blackboard_list."""

    prefix: Annotated[
        str, Meta(description="Only keys that begin so.", max_length=limits.BOARD_NAME_MAX_CHARACTERS)
    ] = ""


class BlackboardSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of blackboard_set."""

    key: BoardKey
    value: Annotated[
        str,
        Meta(
            description="A text, up to 3 KiB. Write what is larger into an artifact, and its name here.",
            max_length=limits.BOARD_VALUE_MAX_CHARACTERS,
        ),
    ]
    version: BoardVersion = 0
    ttl_s: Annotated[
        Annotated[int, Meta(ge=1, le=COUNT_MAX)] | None, Meta(description="Seconds until it is gone. Default: an hour.")
    ] = None


class BlackboardDelete(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of blackboard_delete."""

    key: BoardKey
    version: BoardVersion = 0


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """One tool.

    Attributes:
        arguments: The class of its arguments.
        effects: What it may touch besides reading its workspace.
        control: Whether the turn loop itself answers it.
    """

    name: str
    description: str
    arguments: type[msgspec.Struct]
    effects: frozenset[Effect] = frozenset()
    control: bool = False

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its arguments, for the model."""
        return _schema(self.arguments)

    def parse(self, arguments: str) -> msgspec.Struct:
        """Reads and checks a call's arguments.

        Raises:
            InvalidArguments: They are not JSON, nested too deep, too large, or break the schema; the message names the
                field.
        """
        check_arguments(arguments)
        try:
            parsed: msgspec.Struct = _decoder(self.arguments).decode(arguments or "{}")
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise InvalidArguments(f"the arguments of {self.name} are invalid: {error}") from None
        return parsed


class InvalidArguments(ValueError):
    """Tell the model: the message names the field and what was expected.

    Attributes:
        breaks: The policy that the call would have broken; see `domain.violations`.
    """

    def __init__(self, message: str, breaks: str | None = None) -> None:
        self.breaks = breaks
        super().__init__(message)


def check_arguments(arguments: str) -> None:
    """Refuses what must not reach a parser or an event.

    Raises:
        InvalidArguments: Too large or nested too deep.
    """
    # A lone surrogate is three bytes; whoever parses the arguments refuses it.
    size_bytes = len(arguments.encode(errors="surrogatepass"))
    if size_bytes > limits.ARGUMENTS_MAX_BYTES:
        raise InvalidArguments(f"the arguments have {size_bytes} bytes; at most {limits.ARGUMENTS_MAX_BYTES} are read")
    if nested_deeper(arguments, limits.ARGUMENTS_MAX_DEPTH):
        raise InvalidArguments(f"the arguments are nested deeper than {limits.ARGUMENTS_MAX_DEPTH}")


def nested_deeper(text: str, depth_max: int) -> bool:
    """Whether a JSON text nests deeper than allowed. It need not be valid JSON."""
    # Cheap first: a text with few brackets can't be deep. Brackets in strings only make the careful count run.
    if text.count("{") + text.count("[") <= depth_max:
        return False
    depth = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "{[":
            depth += 1
            if depth > depth_max:
                return True
        elif character in "}]":
            depth -= 1
    return False


@lru_cache(maxsize=256)
def _decoder(arguments: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(arguments)


@lru_cache(maxsize=256)
def _schema(arguments: type[msgspec.Struct]) -> dict[str, Any]:
    (_,), definitions = msgspec.json.schema_components([arguments])
    schema = dict(definitions[arguments.__name__])
    schema.pop("title", None)
    schema.pop("description", None)
    return schema


FINISH = ToolDefinition(
    "finish",
    "Ends the task with its result. It is refused, with what is missing, until the task's conditions are met.",
    Finish,
    control=True,
)
ASK_HUMAN = ToolDefinition(
    "ask_human",
    "Asks a person and waits for the answer. Use it only for what nobody else can decide.",
    AskHuman,
    control=True,
)
LIST_FILES = ToolDefinition("list_files", "Lists the files of the workspace with their sizes in bytes.", ListFiles)
READ_FILE = ToolDefinition("read_file", "Reads lines of a text file, each with its number.", ReadFile)
SEARCH_FILES = ToolDefinition(
    "search_files", "Finds the lines that match a regular expression; each as path:line: text.", SearchFiles
)
WRITE_ARTIFACT = ToolDefinition(
    "write_artifact",
    "Writes a result of the task as a file under artifacts/; writing a name again makes its next version.",
    WriteArtifact,
    effects=frozenset({"write"}),
)
BLACKBOARD_GET = ToolDefinition(
    "blackboard_get",
    "Reads a key of the blackboard that all agents of the pipeline share, with its version.",
    BlackboardGet,
    control=True,
)
BLACKBOARD_LIST = ToolDefinition(
    "blackboard_list", "Lists the keys of the blackboard with their versions.", BlackboardList, control=True
)
BLACKBOARD_SET = ToolDefinition(
    "blackboard_set",
    "Writes a key of the blackboard, if nobody wrote it since you read it: give the version that you read. If somebody "
    "did, you are told what it says now, and decide anew.",
    BlackboardSet,
    effects=frozenset({"write"}),
    control=True,
)
BLACKBOARD_DELETE = ToolDefinition(
    "blackboard_delete",
    "Deletes a key of the blackboard, if nobody wrote it since you read it.",
    BlackboardDelete,
    effects=frozenset({"write"}),
    control=True,
)

CATALOGUE: Mapping[str, ToolDefinition] = {
    tool.name: tool
    for tool in (
        LIST_FILES, READ_FILE, SEARCH_FILES, WRITE_ARTIFACT, BLACKBOARD_GET, BLACKBOARD_LIST, BLACKBOARD_SET,
        BLACKBOARD_DELETE, ASK_HUMAN, FINISH,
    )
}  # fmt: skip
"""All tools by name."""


def granted(
    names: Sequence[str], constraints: Iterable[str], catalogue: Mapping[str, ToolDefinition] = CATALOGUE
) -> tuple[ToolDefinition, ...]:
    """The tools of a role that a task's constraints leave.

    Raises:
        KeyError: A name is in no catalogue, or a constraint is unknown.
    """
    forbidden = frozenset[Effect]().union(*(FORBIDDEN_BY[constraint] for constraint in constraints))
    return tuple(tool for tool in (catalogue[name] for name in names) if not tool.effects & forbidden)
