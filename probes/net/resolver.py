"""resolv.conf(5) as glibc reads it."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from probes.exchanges import ResolverConfig

DEFAULT_PATH = Path("/etc/resolv.conf")
_MOST_NAMESERVERS = 3  # MAXNS
_LARGEST_FILE = 1 << 20
_NO_NAMESERVER = ("127.0.0.1",)  # resolv.conf(5): without any, "the name server on the local machine"


def read_resolver_config(path: Path = DEFAULT_PATH) -> ResolverConfig:
    """The file's settings; an absent or unreadable file is an empty one."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE).decode("utf-8", "replace")
    except OSError:
        text = ""
    return parse_resolver_config(text, str(path))


def parse_resolver_config(text: str, source: str) -> ResolverConfig:
    """The first three valid nameservers, 127.0.0.1 where there is none; of ``search`` and ``domain`` the last line
    counts; options add up."""
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        keyword, *values = _words(line)
        if keyword == "nameserver" and values and _is_address(values[0]):
            nameservers.append(values[0])
        elif keyword in {"search", "domain"} and values:
            search = tuple(values if keyword == "search" else values[:1])
        elif keyword == "options":
            options.extend(values)
    return ResolverConfig(
        nameservers=tuple(nameservers[:_MOST_NAMESERVERS]) or _NO_NAMESERVER,
        search=search,
        options=tuple(dict.fromkeys(options)),
        source=source,
    )


def _words(line: str) -> list[str]:
    """glibc knows comments by the first column only; "# after a value" is common enough to be cut as well."""
    if line[:1] in {"#", ";"}:
        return [""]
    words = line.split()
    comment = next((i for i, word in enumerate(words) if word[0] in "#;"), len(words))
    return words[:comment] or [""]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
