"""The one table of failures, checked against the RFCs' numbers and the errno measured for each cause."""

from __future__ import annotations

import errno
import socket
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.failures import (
    TEXT_LIMIT,
    classify,
    clean_text,
    from_gai_error,
    from_icmp,
    from_os_error,
    from_rcode,
    from_sqlstate,
)
from probes.model import FailureKind, IcmpError, Outcome

TARGET, FIREWALL = "192.0.2.10", "192.0.2.1"


def icmp(family: int, kind: int, code: int, offender: str | None = FIREWALL, mtu: int | None = None) -> IcmpError:
    return IcmpError(family=family, type=kind, code=code, offender=offender, mtu=mtu)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        *[(icmp(4, 3, code), Outcome.UNREACHABLE) for code in (0, 1, 5, 6, 7, 8, 11, 12)],
        *[(icmp(4, 3, code), Outcome.REJECTED) for code in (2, 3, 9, 10, 13, 14, 15)],
        (icmp(4, 3, 4, mtu=1400), Outcome.TOO_BIG),
        (icmp(4, 3, 3, offender=TARGET), Outcome.REFUSED),
        (icmp(4, 3, 3, offender=None), Outcome.REFUSED),
        (icmp(4, 3, 10, offender=TARGET), Outcome.REJECTED),
        (icmp(4, 11, 0), Outcome.EXPIRED),
        (icmp(4, 11, 1), Outcome.LOST),
        (icmp(4, 12, 0), Outcome.REJECTED),
        *[(icmp(6, 1, code), Outcome.UNREACHABLE) for code in (0, 2, 3, 7)],
        *[(icmp(6, 1, code), Outcome.REJECTED) for code in (1, 4, 5, 6)],
        (icmp(6, 1, 4, offender=TARGET), Outcome.REFUSED),
        (icmp(6, 2, 0, mtu=1280), Outcome.TOO_BIG),
        (icmp(6, 3, 0), Outcome.EXPIRED),
        (icmp(6, 3, 1), Outcome.LOST),
        (icmp(6, 4, 0), Outcome.REJECTED),
        (icmp(4, 250, 250), Outcome.UNREACHABLE),
    ],
)
def test_every_icmp_error_has_its_outcome(error, outcome):
    found, failure = from_icmp(error, "connect", TARGET)
    assert found is outcome
    assert failure.icmp == error
    assert failure.operation == "connect"


@pytest.mark.parametrize(
    ("code", "outcome", "kind"),
    [
        (errno.ECONNREFUSED, Outcome.REFUSED, FailureKind.REFUSED),
        (errno.ECONNRESET, Outcome.FAILED, FailureKind.RESET),
        (errno.EPIPE, Outcome.FAILED, FailureKind.RESET),
        (errno.ETIMEDOUT, Outcome.LOST, FailureKind.TIMEOUT),
        (errno.EHOSTUNREACH, Outcome.UNREACHABLE, FailureKind.LOCAL),
        (errno.ENETUNREACH, Outcome.UNREACHABLE, FailureKind.LOCAL),
        (errno.EMSGSIZE, Outcome.TOO_BIG, FailureKind.LOCAL),
        *[
            (code, Outcome.NOT_SENT, FailureKind.LOCAL)
            for code in (
                errno.EACCES,
                errno.EINVAL,
                errno.EADDRNOTAVAIL,
                errno.EADDRINUSE,
                errno.EMFILE,
                errno.ENFILE,
                errno.EPERM,
                errno.ENOBUFS,
                errno.ENOMEM,
            )
        ],
    ],
)
def test_an_errno_without_icmp_is_this_hosts_own_word(code, outcome, kind):
    found, failure = classify(OSError(code, "x"), "connect")
    assert (found, failure.kind, failure.errno) == (outcome, kind, errno.errorcode[code])


def test_icmp_overrules_the_errno():
    refused = OSError(errno.ECONNREFUSED, "Connection refused")
    assert classify(refused, "connect", icmp(4, 3, 3), TARGET)[0] is Outcome.REJECTED
    failure = from_os_error(refused, "connect", icmp(4, 3, 3))
    assert (failure.kind, failure.errno) == (FailureKind.REJECTED, "ECONNREFUSED")
    unreachable = OSError(errno.EHOSTUNREACH, "No route to host")
    assert classify(unreachable, "connect", icmp(4, 11, 0), TARGET)[0] is Outcome.EXPIRED
    assert classify(unreachable, "connect", icmp(4, 3, 13), TARGET)[0] is Outcome.REJECTED


def test_unreachable_on_a_live_connection_is_the_networks_word():
    assert from_os_error(OSError(errno.EHOSTUNREACH, ""), "receive").kind is FailureKind.UNREACHABLE


def test_getaddrinfo_errors_keep_their_symbol():
    failure = from_gai_error(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    assert (failure.kind, failure.errno, failure.operation) == (FailureKind.NAME, "EAI_NONAME", "resolve")
    assert from_os_error(socket.gaierror(socket.EAI_AGAIN, "x"), "resolve").errno == "EAI_AGAIN"


def test_servers_errors_keep_their_code_and_a_clean_text():
    failure = from_sqlstate("53300", "sorry,\x1b[31m too many\nclients", "startup")
    assert (failure.kind, failure.sqlstate, failure.detail) == (
        FailureKind.SERVER,
        "53300",
        "sorry, too many clients",
    )
    assert from_rcode("SERVFAIL").detail == "SERVFAIL"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plain", "plain"),
        (b"bytes\xff", "bytes\N{REPLACEMENT CHARACTER}"),
        ("two\r\nlines\tand\x00more", "two lines and more"),
        ("\x1b[2J\x1b[1;31mred\x1b]0;title\x07!", "red!"),
        ("evil\u202egpj.exe\u2066x\u200b", "evilgpj.exex"),
        ("\x9b31mC1", "C1"),
        ("line\u2028separator\u2029s", "line separator s"),
        ("", ""),
        ("žluťoučký 漢字", "žluťoučký 漢字"),
        ("a" * 300, "a" * 199 + "…"),
        ("a" * 200, "a" * 200),
    ],
)
def test_text_becomes_one_printable_line(raw, clean):
    assert clean_text(raw) == clean


@given(st.one_of(st.text(max_size=600), st.binary(max_size=600)))
def test_whatever_the_text_it_is_one_short_printable_line(raw):
    line = clean_text(raw)
    assert len(line) <= TEXT_LIMIT
    assert line == line.strip()
    assert not any(unicodedata.category(character)[0] == "C" for character in line)
    assert not any(unicodedata.category(c)[0] == "Z" for c in line.replace(" ", ""))
    assert clean_text(line) == line
