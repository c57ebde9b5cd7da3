"""sendmmsg and recvmmsg on real sockets, beside Python's own sendmsg and recvmsg."""

from __future__ import annotations

import errno
import random
import socket
import struct

import pytest

from probes.net import mmsg
from probes.net.mmsg import LENGTHS, NAME_BYTES, Inbox, Outbox, Parcel, control_message, control_messages, socket_name

pytestmark = pytest.mark.skipif(
    not mmsg.AVAILABLE, reason="this C library has no sendmmsg, or pointers are not 64 bits"
)

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
FAMILIES = list(LOOPBACK)
DATA, CONTROL = 64, 64
TTL_OPTIONS = {
    socket.AF_INET: (socket.IPPROTO_IP, 2, 12),  # IP_TTL, IP_RECVTTL
    socket.AF_INET6: (socket.IPPROTO_IPV6, 52, 51),  # IPV6_HOPLIMIT, IPV6_RECVHOPLIMIT
}


@pytest.fixture
def chance() -> random.Random:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    return random.Random(seed)


def udp(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((LOOPBACK[family], 0))
    return sock


def name_of(sock: socket.socket) -> bytes:
    """socket_name() leaves the port 0, as ICMP has none; UDP needs one."""
    address, port = sock.getsockname()[:2]
    name = socket_name(sock.family, socket.inet_pton(sock.family, address))
    return name[:2] + struct.pack("!H", port) + name[4:]


def taken(box: Inbox, count: int) -> list[tuple[bytes, bytes, list[tuple[int, int, bytes]]]]:
    """(sockaddr, data, control messages) of each."""
    found = []
    for at, (control, data) in enumerate(LENGTHS.iter_unpack(box.headers[: count * LENGTHS.size])):
        found.append(
            (
                bytes(box.names[at * NAME_BYTES : (at + 1) * NAME_BYTES]),
                bytes(box.data[at * DATA : at * DATA + data]),
                control_messages(bytes(box.control[at * CONTROL : at * CONTROL + control])),
            )
        )
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_goes_out_in_a_batch_is_what_python_receives(family, chance):
    level, ttl, wants_ttl = TTL_OPTIONS[family]
    with udp(family) as sender, udp(family) as receiver:
        receiver.setsockopt(level, wants_ttl, 1)
        out, expected, packets = Outbox(20, 8), [], []
        for _ in range(20):
            head, payload, hops = chance.randbytes(8), chance.randbytes(chance.randrange(1200)), chance.randint(1, 255)
            control = control_message(level, ttl, struct.pack("=i", hops))
            packets.append((Parcel(name_of(receiver), control, payload), head))
            expected.append((head + payload, hops))
        assert out.send(sender.fileno(), packets) == 20
        found, source = [receiver.recvmsg(2048, 256) for _ in range(20)], sender.getsockname()
    assert [(data, struct.unpack("=i", control[0][2])[0]) for data, control, _, _ in found] == expected
    assert {seen for *_, seen in found} == {source}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_python_sends_is_received_in_batches_each_as_itself(family, chance):
    """Also in places that held a longer packet with control messages before, and more packets than places."""
    level, _, wants_ttl = TTL_OPTIONS[family]
    box = Inbox(8, DATA, CONTROL)
    with udp(family) as receiver, udp(family) as one, udp(family) as other:
        for wanted in (1, 0):
            receiver.setsockopt(level, wants_ttl, wanted)
            sent = []
            for _ in range(19):
                sender, data = chance.choice([one, other]), chance.randbytes(chance.randrange(100))
                sender.sendto(data, receiver.getsockname())
                sent.append((name_of(sender), data[:DATA], wanted))
            found = []
            for expected in (8, 8, 3):
                count = box.receive(receiver.fileno())
                assert count == expected
                found += taken(box, count)
            # sin6_flowinfo and sin6_scope_id are 0 here, as in name_of(); sin_zero as well
            assert [
                (name[: len(s[0])], data, len(control)) for (name, data, control), s in zip(found, sent, strict=True)
            ] == sent
            with pytest.raises(BlockingIOError):
                box.receive(receiver.fileno())


def test_the_first_that_cannot_be_sent_raises_and_a_later_one_ends_the_batch():
    with udp(socket.AF_INET) as sender, udp(socket.AF_INET) as receiver:
        good = Parcel(name_of(receiver), b"", b"")
        too_long = Parcel(name_of(receiver), b"", bytes(70000))
        out = Outbox(3, 8)
        assert out.send(sender.fileno(), [(parcel, bytes(8)) for parcel in (good, too_long, good)]) == 1
        with pytest.raises(OSError, match=r".") as raised:
            out.send(sender.fileno(), [(too_long, bytes(8))])
        assert raised.value.errno == errno.EMSGSIZE


def test_control_messages_cut_short_end_the_list():
    whole = control_message(1, 2, b"abc") + control_message(3, 4, bytes(8))
    assert control_messages(whole) == [(1, 2, b"abc"), (3, 4, bytes(8))]
    for cut in range(len(whole)):
        assert control_messages(whole[:cut]) == ([(1, 2, b"abc")] if cut >= 19 else [])
    assert control_messages(bytes(64)) == [], "a length of 0 would never end"
