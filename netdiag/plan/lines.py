"""Where each key of a TOML text stands. tomllib tells values only; an error message wants the line.

Works on text that tomllib has accepted, so it only has to find its way, not to complain.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2}(?!"))|\'\'\'.*?\'\'\'(?:\'{0,2}(?!\'))|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


class LineFinder:
    """``lines[path]`` is the line (from 1) of a key, a table header or an array's item."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {(): 1}
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._counts: dict[Path, int] = {}
        self._scan()

    def find(self, path: Path) -> int:
        """The line of ``path``, else of the nearest thing around it."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]

    def _scan(self) -> None:
        table: Path = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _take(self, character: str) -> bool:
        taken = self._text.startswith(character, self._at)
        self._at += len(character) * taken
        return taken

    def _mark(self, path: Path) -> None:
        self.lines.setdefault(path, self._text.count("\n", 0, self._at) + 1)

    def _header(self) -> Path:
        here = self._at
        array = self._text.startswith("[[", here)
        self._at += 1 + array
        path = self._resolve(self._key(), array)
        for marked in (path, path[:-1]) if array else (path,):
            self.lines.setdefault(marked, self._text.count("\n", 0, here) + 1)
        self._at += 1 + array
        return path

    def _resolve(self, keys: tuple[str, ...], array: bool) -> Path:
        """A header's keys with the index of the array of tables that each one is in."""
        path: Path = ()
        for depth, key in enumerate(keys, start=1):
            path = (*path, key)
            if array and depth == len(keys):
                self._counts[path] = self._counts.get(path, -1) + 1
            if path in self._counts:
                path = (*path, self._counts[path])
        return path

    def _key(self) -> tuple[str, ...]:
        parts = []
        while True:
            self._skip(_SPACE)
            quoted = self._skip(_STRING)
            parts.append(_unquote(quoted) if quoted else self._skip(_BARE))
            self._skip(_SPACE)
            if not self._take("."):
                return tuple(parts)

    def _pair(self, table: Path) -> None:
        here = self._at
        keys = self._key()
        for depth in range(1, len(keys) + 1):
            self.lines.setdefault((*table, *keys[:depth]), self._text.count("\n", 0, here) + 1)
        self._take("=")
        self._skip(_SPACE)
        self._value((*table, *keys))

    def _value(self, path: Path) -> None:
        if self._take("["):
            self._items(path)
        elif self._take("{"):
            self._pairs(path)
        elif not self._skip(_STRING):
            self._skip(_SCALAR)

    def _items(self, path: Path) -> None:
        index = 0
        self._skip(_BLANK)
        while not self._take("]"):
            self._mark((*path, index))
            self._value((*path, index))
            index += 1
            self._skip(_BLANK)
            self._take(",")
            self._skip(_BLANK)

    def _pairs(self, path: Path) -> None:
        self._skip(_BLANK)
        while not self._take("}"):
            self._pair(path)
            self._skip(_BLANK)
            self._take(",")
            self._skip(_BLANK)


def _unquote(text: str) -> str:
    """A quoted key as tomllib reads it, escapes included."""
    import tomllib

    (key,) = tomllib.loads(f"{text} = 0")
    return key
