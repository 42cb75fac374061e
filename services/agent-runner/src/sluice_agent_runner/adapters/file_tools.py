"""The tools that work on files: list, read, search, write an artifact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import re2

from sluice_agent_runner.adapters.directory import INLINE_MAX_BYTES, WRITABLE_MODE, Directory, Refused, to_its_end
from sluice_agent_runner.domain import limits
from sluice_agent_runner.domain.conversation import ToolCall, ToolResult, WrittenArtifact
from sluice_agent_runner.domain.names import UnsafeName, components
from sluice_agent_runner.domain.tools import ListFiles, ReadFile, SearchFiles, WriteArtifact
from sluice_agent_runner.ports import ArtifactStore, Time

FILE_MAX_BYTES = 16 * 1024 * 1024
"""A file that is read or searched is held in memory, by each attempt that does so at the moment."""

OUTPUT_MAX_BYTES = 32 * 1024
"""One tool result: it becomes a part of every later prompt of the agent."""

LINE_MAX_CHARACTERS = 1_000
"""A line is cut here: one line of a minified file must not fill the whole result."""

SEARCH_MAX_BYTES = 256 * 1024 * 1024
"""Bytes that one search looks at: all that a workspace's inputs may have."""

SEARCH_MAX_MS = 10_000
"""A pattern that RE2 can't run at full speed on large files ends here."""

SEARCH_CHUNK_BYTES = 1024 * 1024
"""The time is looked at after each."""

BINARY_PROBE_BYTES = 8 * 1024
"""A NUL byte this early shows that a file is no text."""

MEDIA_TYPES = {
    "md": "text/markdown; charset=utf-8",
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "yaml": "application/yaml",
    "yml": "application/yaml",
}
"""By the ending of an artifact's name; everything else is plain text."""


class FileTools:
    """Works in one workspace. What the model asked wrongly comes back as an error result that names it."""

    def __init__(self, directory: Directory, artifacts: ArtifactStore, time: Time) -> None:
        self._directory = directory
        self._artifacts = artifacts
        self._time = time
        self._written: dict[tuple[str, ...], int] = {}
        self.total_bytes = 0

    def laid_in(self, parts: Sequence[str], size_bytes: int) -> None:
        """Takes note of a file that was laid into the workspace."""
        self.total_bytes += size_bytes
        if parts[0] == "artifacts":
            self._written[tuple(parts)] = size_bytes

    async def run(self, call: ToolCall) -> ToolResult:
        """See `ports.Tools.run`."""
        begun_ms = self._time.monotonic_ms()
        artifact = None
        try:
            arguments = call.arguments
            if isinstance(arguments, WriteArtifact):
                content, artifact = await self._write_artifact(arguments)
            elif isinstance(arguments, ListFiles):
                content = await self._do(lambda: self._list_files(arguments))
            elif isinstance(arguments, ReadFile):
                content = await self._do(lambda: self._read_file(arguments))
            elif isinstance(arguments, SearchFiles):
                content = await self._do(lambda: self._search_files(arguments))
            else:
                raise TypeError(f"no tool takes {type(arguments).__name__}")
        except (Refused, UnsafeName) as error:
            duration_ms = self._time.monotonic_ms() - begun_ms
            return ToolResult(call.call_id, str(error), True, duration_ms, breaks=error.breaks)
        return ToolResult(call.call_id, content, False, self._time.monotonic_ms() - begun_ms, artifact)

    async def _do(self, work: Callable[[], str]) -> str:
        if self.total_bytes > INLINE_MAX_BYTES:
            return await asyncio.to_thread(work)
        return work()

    def _list_files(self, arguments: ListFiles) -> str:
        entries, more = self._directory.files(_place(arguments.path))
        if not entries:
            return "there are no files"
        lines = [f"{entry.path} ({entry.size_bytes} bytes)" for entry in entries]
        return _bounded(lines, "list a folder of it" if more else None, total=len(entries))

    def _read_file(self, arguments: ReadFile) -> str:
        parts = components(arguments.path)
        body = self._directory.read(parts, FILE_MAX_BYTES)
        if b"\0" in body[:BINARY_PROBE_BYTES]:
            raise Refused(f"{arguments.path} is no text file: it holds NUL bytes")
        lines = body.decode("utf-8", "replace").split("\n")
        if lines[-1] == "":
            lines.pop()
        total = len(lines)
        if not total:
            return f"{arguments.path} is empty"
        if arguments.offset > total:
            raise Refused(f"offset {arguments.offset} is beyond the end: {arguments.path} has {total} lines")
        shown: list[str] = []
        size_bytes = 0
        for number, line in enumerate(lines[arguments.offset - 1 : arguments.offset - 1 + arguments.limit]):
            text = f"{arguments.offset + number:>6}\t{_cut(line)}"
            size_bytes += len(text.encode()) + 1
            if shown and size_bytes > OUTPUT_MAX_BYTES:
                break
            shown.append(text)
        last = arguments.offset + len(shown) - 1
        if last < total:
            shown.append(f"(lines {arguments.offset} to {last} of {total}; go on with offset {last + 1})")
        return "\n".join(shown)

    def _search_files(self, arguments: SearchFiles) -> str:
        expression = _expression(arguments.pattern, ignore_case=arguments.ignore_case)
        entries, more = self._directory.files(_place(arguments.path))
        deadline_ms = self._time.monotonic_ms() + SEARCH_MAX_MS
        found: list[str] = []
        notes = ["not all files were searched: there are too many; name a folder"] if more else []
        searched_bytes = 0
        for entry in entries:
            searched_bytes += entry.size_bytes
            if entry.size_bytes > FILE_MAX_BYTES or searched_bytes > SEARCH_MAX_BYTES:
                notes.append(f"{entry.path} was not searched: it is too large, or too much was searched before it")
                continue
            body = self._directory.read(components(entry.path), FILE_MAX_BYTES)
            if b"\0" in body[:BINARY_PROBE_BYTES]:
                continue
            for chunk, first_line in _chunks(_utf8(body)):
                if self._time.monotonic_ms() > deadline_ms:
                    notes.append(f"the search was ended after {SEARCH_MAX_MS} ms, in {entry.path}; narrow it")
                    return _bounded(found, *notes, total=len(found))
                room = arguments.max_matches - len(found)
                hits = _matching_lines(expression, chunk, room + 1)
                found += [f"{entry.path}:{first_line + at}: {_cut(text)}" for at, text in hits[:room]]
                if len(hits) > room:
                    notes.append(f"there are more than {arguments.max_matches} matches; narrow the pattern or the path")
                    return _bounded(found, *notes, total=len(found))
        if not found:
            notes.insert(0, f"no line of {len(entries)} files matches")
        return _bounded(found, *notes, total=len(found))

    async def _write_artifact(self, arguments: WriteArtifact) -> tuple[str, WrittenArtifact]:
        parts = ("artifacts", *components(arguments.name))
        if parts not in self._written and len(self._written) >= limits.ARTIFACTS_MAX_COUNT:
            raise Refused(f"{limits.ARTIFACTS_MAX_COUNT} artifacts are written already; no more are taken")
        try:
            body = arguments.content.encode()
        except UnicodeEncodeError as error:
            raise Refused(f"character {error.start} of the content is no Unicode text") from None
        media_type = MEDIA_TYPES.get(arguments.name.rpartition(".")[2].lower(), "text/plain; charset=utf-8")
        # The file first: where its name is refused, nothing was stored.
        if len(body) > INLINE_MAX_BYTES:
            await to_its_end(lambda: self._directory.write(parts, body, WRITABLE_MODE, replace=True))
        else:
            self._directory.write(parts, body, WRITABLE_MODE, replace=True)
        ref = await self._artifacts.put(body, media_type=media_type, name=arguments.name, kind=arguments.kind)
        again = parts in self._written
        self.total_bytes += len(body) - self._written.get(parts, 0)
        self._written[parts] = len(body)
        artifact = WrittenArtifact(arguments.name, ref.sha256, ref.size_bytes, ref.media_type, arguments.kind)
        done = "its next version is" if again else "it is"
        return f"{arguments.name}: {done} written to {'/'.join(parts)} ({len(body)} bytes)", artifact


def _place(path: str) -> tuple[str, ...]:
    return () if path in (".", "./", "") else components(path.removeprefix("./").removesuffix("/"))


def _cut(line: str) -> str:
    line = line.rstrip("\r")
    if len(line) <= LINE_MAX_CHARACTERS:
        return line
    return f"{line[:LINE_MAX_CHARACTERS]}… ({len(line) - LINE_MAX_CHARACTERS} more characters)"


def _bounded(lines: list[str], *notes: str | None, total: int) -> str:
    shown: list[str] = []
    size_bytes = 0
    for line in lines:
        size_bytes += len(line.encode()) + 1
        if shown and size_bytes > OUTPUT_MAX_BYTES:
            break
        shown.append(line)
    if len(shown) < total:
        shown.append(f"({len(shown)} of {total} lines are shown; narrow it to see the others)")
    shown += [f"({note})" for note in notes if note]
    return "\n".join(shown)


def _expression(pattern: str, *, ignore_case: bool):  # type: ignore[no-untyped-def]
    options = re2.Options()
    options.log_errors = False
    options.never_nl = True
    options.case_sensitive = not ignore_case
    try:
        return re2.compile(b"(?m)" + pattern.encode(), options)
    except (re2.error, UnicodeEncodeError) as error:
        raise Refused(f"pattern {pattern[:100]!r} is no regular expression of RE2: {error}") from None


def _utf8(body: bytes) -> bytes:
    """The file as RE2 reads it: its `.` matches no byte that is not UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return body.decode("utf-8", "replace").encode()
    return body


def _chunks(body: bytes) -> list[tuple[bytes, int]]:
    """Pieces of whole lines, each with the number of its first line."""
    pieces = []
    begin, line = 0, 1
    while begin < len(body):
        end = len(body)
        if end - begin > SEARCH_CHUNK_BYTES:
            end = body.rfind(b"\n", begin, begin + SEARCH_CHUNK_BYTES) + 1 or (
                body.find(b"\n", begin + SEARCH_CHUNK_BYTES) + 1 or len(body)
            )
        pieces.append((body[begin:end], line))
        line += body.count(b"\n", begin, end)
        begin = end
    return pieces


def _matching_lines(expression, chunk: bytes, count_max: int) -> list[tuple[int, str]]:  # type: ignore[no-untyped-def]
    """At most that many matching lines: (lines before it, text)."""
    hits: list[tuple[int, str]] = []
    at = line = 0
    while len(hits) < count_max and at < len(chunk):
        match = expression.search(chunk, at)
        if match is None:
            break
        begin = chunk.rfind(b"\n", 0, match.start()) + 1
        end = chunk.find(b"\n", match.start())
        end = len(chunk) if end < 0 else end
        line += chunk.count(b"\n", at, begin)
        hits.append((line, chunk[begin:end].decode("utf-8", "replace")))
        line += 1
        at = end + 1
    return hits
