"""Examples: JSONL rows in every usual spelling, checked, with the one text template.

This is the only place that says what a row is and which text the encoder sees; training, export
and inference import it.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import hashlib
import json
import math
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from airrep_infer.errors import InputError
from airrep_infer.files import atomic_write
from airrep_infer.ids import SeenIds

PROMPT_WORDS = 256
"""The template keeps this many words of the prompt, split at white space (as the published one does)."""
TEMPLATE = "Question: {prompt}\nAnswer: {response}"
MAX_FIELD_CHARS = 200
"""A string field longer than this is content, not a label; it is not carried along with the row."""

Scalar = str | int | float | bool
OnError = Literal["raise", "skip"]

# First match wins; each entry is (prompt spellings, response spellings).
_SPELLINGS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("prompt",), ("completion", "response")),
    (("instruction",), ("output", "response")),
    (("input", "inputs", "question"), ("output", "target", "targets", "answer")),
)
_EXPECTED = (
    "messages; prompt + completion|response; instruction (+ input) + output|response; "
    "input|inputs|question + output|target|targets|answer; text"
)
_CONTENT_KEYS = frozenset(
    {"id", "messages", "text", "completion", "response", "output", "target", "targets", "answer"}
    | {"prompt", "instruction", "input", "inputs", "question"}
)


@dataclass(frozen=True, slots=True)
class Example:
    """One training row or query.

    `prompt` is None for a row that is plain text; then `response` is all of it. `fields` holds the
    row's other short scalar fields (task, source, ...), any of which can name a group.
    """

    id: str
    prompt: str | None
    response: str
    fields: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text that the encoder sees."""
        if self.prompt is None:
            return self.response
        return TEMPLATE.format(prompt=" ".join(self.prompt.split()[:PROMPT_WORDS]), response=self.response)

    @property
    def sha(self) -> str:
        """The first 16 hex digits of the sha256 of `text`: what a store knows a row by."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be read: where it stands, why, and its line (undecodable bytes escaped)."""

    file: str
    line: int
    reason: str
    row: str


def parse_row(row: object, default_id: str) -> Example:
    """Read one decoded JSON row in any accepted spelling.

    Raises:
        ValueError: why the row is not an example (no file or line: the caller knows those).
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {_kind(row)}")
    prompt, response = _prompt_and_response(row)
    if not response.strip():
        raise ValueError("the response is empty" if prompt is not None else "the text is empty")
    name = row.get("id")
    if name is None:
        name = default_id
    elif isinstance(name, bool) or not isinstance(name, str | int):
        raise ValueError(f"id must be a string or an integer, got {_kind(name)}")
    elif name == "":
        raise ValueError("id is empty")
    fields = {key: value for key, value in row.items() if key not in _CONTENT_KEYS and _is_label(value)}
    labels = "".join(f"{key}{value}" for key, value in fields.items())
    for what, text in (("id", str(name)), ("prompt", prompt), ("response", response), ("a field", labels)):
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{what} holds half a surrogate pair (\\ud800-\\udfff), not text") from error
    return Example(str(name), prompt, response, fields)


def _prompt_and_response(row: dict[str, Any]) -> tuple[str | None, str]:
    if row.get("messages") is not None:
        return _from_messages(row["messages"])
    found_prompt = found_response = False
    for prompts, responses in _SPELLINGS:
        prompt_key = _first_present(row, prompts)
        response_key = _first_present(row, responses)
        if prompt_key and response_key:
            prompt = _string(row, prompt_key)
            # Alpaca-style rows: the input is context for the instruction and belongs to the prompt.
            if prompt_key == "instruction" and row.get("input") not in (None, ""):
                prompt = f"{prompt}\n{_string(row, 'input')}" if prompt else _string(row, "input")
            return prompt, _string(row, response_key)
        found_prompt |= prompt_key is not None
        found_response |= response_key is not None
    if row.get("text") is not None:
        return None, _string(row, "text")
    missing = "prompt with its response" if found_prompt and found_response else "response"
    missing = "prompt" if found_response and not found_prompt else missing
    raise ValueError(f"no {missing} found; keys: {_keys(row)}; expected one of: {_EXPECTED}")


def _keys(row: dict[str, Any]) -> str:
    """The keys of a row for a message: one line, printable, and not longer than anyone reads."""
    shown = [key if key.isprintable() else repr(key) for key in row]
    cut = [key if len(key) <= 40 else f"{key[:40]}..." for key in shown[:20]]
    return ", ".join(cut + ["..."] * (len(shown) > 20)) or "none"


def _from_messages(messages: object) -> tuple[str, str]:
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages must be a list of at least one turn")
    turns: list[tuple[str, str]] = []
    for number, turn in enumerate(messages):
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise ValueError(f"messages[{number}] must be an object with a role and a content")
        content = turn.get("content")
        if isinstance(content, list):  # content parts; only text can be attributed
            parts = [part["text"] for part in content if _is_text_part(part)]
            if len(parts) < len(content):
                raise ValueError(f"messages[{number}] has a content part that is not text")
            content = "\n".join(parts)
        if content is None:  # a turn with only tool calls
            content = ""
        if not isinstance(content, str):
            raise ValueError(f"messages[{number}].content must be a string, got {_kind(content)}")
        turns.append((turn["role"], content))
    last = max((n for n, (role, _) in enumerate(turns) if role == "assistant"), default=None)
    if last is None:
        raise ValueError("messages has no assistant turn to be the response")
    context = [(role, content) for role, content in turns[:last] if content]
    if len(context) == 1:
        return context[0][1], turns[last][1]
    return "\n".join(f"{role}: {content}" for role, content in context), turns[last][1]


def _is_text_part(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _first_present(row: dict[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if row.get(key) is not None), None)


def _string(row: dict[str, Any], key: str) -> str:
    value = row[key]
    # Some sets store one reference answer as a list of one (P3's `targets`, SQuAD's `answer`).
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string, got {_kind(value)}")
    return value


def _is_label(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_FIELD_CHARS
    # Not NaN or Infinity, which json.loads takes but JSON does not have.
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


class ExampleReader:
    """Reads examples from JSONL files in order, checking every row.

    Iterating raises `InputError` with `file:line` at the first bad row, or, with
    `on_error="skip"`, collects bad rows in `rejected` and goes on. `-` is standard input;
    names that end in `.gz` are decompressed. A second iteration starts again from the first file.

    Args:
        paths: files, read one after the other.
        on_error: what to do with a row that is not an example. A duplicate id, an unreadable file
            and a file without any row are errors always.
    """

    def __init__(self, paths: Iterable[str | Path], *, on_error: OnError = "raise") -> None:
        self.paths = [str(path) for path in paths]
        if not self.paths:
            raise InputError("no examples: name at least one JSONL file, or - for standard input")
        if self.paths.count("-") > 1:
            raise InputError("standard input (-) can be read only once")
        for path in self.paths:
            # Not is_file(): a named pipe, as the shell's <(command) makes, can be read.
            if path != "-" and (Path(path).is_dir() or not Path(path).exists()):
                what = "is a folder, not a JSONL file" if Path(path).is_dir() else "no such file"
                raise InputError(f"{path}: {what}")
        self.on_error = on_error
        self.rejected: list[Rejected] = []

    @property
    def replayable(self) -> bool:
        """Whether the input can be read twice: files can, standard input and pipes cannot."""
        return all(path != "-" and Path(path).is_file() for path in self.paths)

    def __iter__(self) -> Iterator[Example]:
        self.rejected = []
        seen = SeenIds()
        for position, path in enumerate(self.paths):
            for line, example in self._read(path):
                if not seen.add(example.id):
                    first = self._first_place(example.id, position, line)
                    if first is not None:
                        raise InputError(
                            f"{_name(path)}:{line}: duplicate id {example.id!r}, first at {first}; give "
                            'every row its own "id" (a row without one is <file stem>:<line number>)'
                        )
                yield example

    def _read(self, path: str) -> Iterator[tuple[int, Example]]:
        """The good rows of one file with their line numbers, from 1."""
        stem = "stdin" if path == "-" else Path(path.removesuffix(".gz")).stem
        rows = 0
        blank: int | None = None
        for line, raw in _lines(path):
            if not raw.strip():
                blank = blank or line
                continue
            if blank is not None:
                # Blank lines at the end of a file are harmless; inside they would shift line numbers.
                self._reject(path, blank, "the line is empty", b"")
                blank = None
            rows += 1
            try:
                example = parse_row(_decode(raw), f"{stem}:{line}")
            except ValueError as error:
                self._reject(path, line, str(error), raw)
            else:
                yield line, example
        if not rows:
            raise InputError(f"{_name(path)}: the file has no rows")

    def _reject(self, path: str, line: int, reason: str, raw: bytes) -> None:
        if self.on_error == "raise":
            raise InputError(f"{_name(path)}:{line}: {reason}")
        row = raw.rstrip(b"\r\n").decode(errors="backslashreplace")
        self.rejected.append(Rejected(_name(path), line, reason, row))

    def _first_place(self, name: str, position: int, line: int) -> str | None:
        """Where `name` was read first, None if nowhere (a hash collision); only errors pay for this pass."""
        again = ExampleReader(self.paths, on_error="skip")
        once = None
        for number, path in enumerate(self.paths[: position + 1]):
            if path == "-" or not Path(path).is_file():  # a stream: gone, so it cannot be ruled out
                once = once or f"an earlier line of {_name(path)}"
                continue
            for at, example in again._read(path):
                if (number, at) == (position, line):
                    break
                if example.id == name:
                    return f"{_name(path)}:{at}"
        return once


def read_examples(*paths: str | Path) -> list[Example]:
    """All examples of some JSONL files, in order.

    Raises:
        InputError: a file cannot be read or a row is not an example (`file:line: reason`).
    """
    return list(ExampleReader(paths))


def write_rejects(path: Path, rejected: Sequence[Rejected]) -> None:
    """Write rejected rows as JSONL `{"file", "line", "reason", "row"}`, atomically."""
    with atomic_write(path) as stream:
        for reject in rejected:
            row = {"file": reject.file, "line": reject.line, "reason": reject.reason, "row": reject.row}
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _name(path: str) -> str:
    return "<stdin>" if path == "-" else path


@contextlib.contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdin.buffer
    elif path.endswith(".gz"):
        with gzip.open(path, "rb") as unzipped:
            yield unzipped  # type: ignore[misc]  # GzipFile is a binary stream
    else:
        with Path(path).open("rb") as stream:
            yield stream


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    line = 0
    try:
        with _open(path) as stream:
            for line, raw in enumerate(stream, 1):  # the error below names the line
                yield line, raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw
    except (OSError, EOFError, zlib.error) as error:
        # gzip reports a truncated or damaged file as any of the three.
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{_name(path)}:{line + 1}: cannot read: {reason}") from error


def _decode(raw: bytes) -> object:
    cut = "" if raw.endswith(b"\n") else " (the last line has no line end: is the file truncated?)"
    try:
        return json.loads(raw.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1}"
        raise ValueError(f"not UTF-8: {byte}{cut}") from error
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        raise ValueError(f"not valid JSON: {what} at character {error.pos + 1}{cut}") from error
    except RecursionError as error:
        raise ValueError("not valid JSON: nested too deeply") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise ValueError(f"not valid JSON: {str(error).split(';')[0]}") from error
