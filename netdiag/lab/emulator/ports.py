"""One end of the link: a packet socket on an interface (packet(7)), and what the kernel says about each frame."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from pathlib import Path

from netdiag.lab.offload import offloads_off

ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_ADD_MEMBERSHIP, _STATISTICS, _AUXDATA, _QDISC_BYPASS, _IGNORE_OUTGOING = 1, 6, 8, 20, 23  # linux/if_packet.h
_MR_PROMISC = 1
_STATUS_CSUM_NOT_READY, _STATUS_VLAN_VALID, _STATUS_VLAN_TPID_VALID = 1 << 3, 1 << 4, 1 << 6
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP, _IFF_NOARP = 0x1, 0x80
_RECEIVE_BUFFER = 32 << 20
_BIGGEST = 65536 + 18
_TIMESPEC = struct.Struct("=qq")
_AUX = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_CONTROL_ROOM = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(_AUX.size)

ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q, ETH_P_8021AD = 0x0800, 0x86DD, 0x8100, 0x88A8


class Port:
    """Frames in and out of one interface, in the caller's network namespace. Not blocking.

    Raises OSError when opened: ENODEV without such an interface, EPERM without CAP_NET_RAW and CAP_NET_ADMIN there.
    """

    def __init__(self, interface: str) -> None:
        self.interface = interface
        _prepare(interface)
        # Protocol 0: not a frame may come in before the socket ignores what it sends itself.
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._configure()
            self.socket.bind((interface, ETH_P_ALL))
        except OSError:
            self.socket.close()
            raise

    def _configure(self) -> None:
        sock = self.socket
        sock.setblocking(False)
        sock.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)  # Linux 4.20; without it the link would feed on itself
        sock.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        sock.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        membership = struct.pack("=iHH8s", socket.if_nametoindex(self.interface), _MR_PROMISC, 0, b"")
        sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)  # as far as net.core.rmem_max
        with contextlib.suppress(PermissionError):  # beyond it only for the host's own root
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)

    def receive(self) -> tuple[bytes, int, bool]:
        """A frame, its arrival (CLOCK_REALTIME, ns; 0 if the kernel had none), whether its checksum is half-computed.

        Raises BlockingIOError when there is none, OSError(ENETDOWN) once after the interface went down.
        """
        frame, control, _, _ = self.socket.recvmsg(_BIGGEST, _CONTROL_ROOM)
        stamp, unfinished = 0, False
        for level, kind, content in control:
            if kind == _SO_TIMESTAMPNS and level == socket.SOL_SOCKET:
                seconds, nanoseconds = _TIMESPEC.unpack(content)
                stamp = seconds * 1_000_000_000 + nanoseconds
            elif kind == _AUXDATA and level == _SOL_PACKET:
                status, _, _, _, _, tag, protocol = _AUX.unpack(content)
                unfinished = bool(status & _STATUS_CSUM_NOT_READY)
                if status & _STATUS_VLAN_VALID:
                    frame = with_tag(frame, protocol if status & _STATUS_VLAN_TPID_VALID else ETH_P_8021Q, tag)
        return frame, stamp, unfinished

    def send(self, frame: bytes) -> None:
        """Raises OSError: EMSGSIZE above the MTU, ENETDOWN, ENOBUFS."""
        self.socket.send(frame)

    def overruns(self) -> int:
        """Frames that found no room in the receive buffer since the last call."""
        _, drops = struct.unpack("=II", self.socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        return int(drops)

    def __enter__(self) -> Port:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def with_tag(frame: bytes, protocol: int, tag: int) -> bytes:
    """The frame as it was on the wire: the kernel takes the outer VLAN tag out before a packet socket sees it."""
    return b"".join((frame[:12], struct.pack("!HH", protocol, tag), frame[12:]))


def ip_length(frame: bytes) -> int | None:
    """Bytes of the IPv4 or IPv6 packet in an Ethernet frame, behind any VLAN tags; None for other frames."""
    at = 12
    while (kind := int.from_bytes(frame[at : at + 2], "big")) in (ETH_P_8021Q, ETH_P_8021AD):
        at += 4
    header = frame[at + 2 : at + 8]
    if len(header) < 6:
        return None
    if kind == ETH_P_IP:
        return int.from_bytes(header[2:4], "big")  # RFC 791: total length
    return 40 + int.from_bytes(header[4:6], "big") if kind == ETH_P_IPV6 else None  # RFC 8200: payload length


def _prepare(interface: str) -> None:
    """Up, without offloads, and with no host of its own behind it: the emulator's ends must not speak on the link."""
    socket.if_nametoindex(interface)
    offloads_off(interface)
    ipv6 = Path("/proc/sys/net/ipv6/conf", interface, "disable_ipv6")
    with contextlib.suppress(FileNotFoundError, PermissionError):  # no IPv6 here, or /proc/sys is read-only
        ipv6.write_text("1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", interface.encode(), 0)
        flags = struct.unpack_from("=H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", interface.encode(), flags | _IFF_UP | _IFF_NOARP))
