"""Offloads of a network interface: switched off, or a lab of veth pairs hides the faults it was built to show.

A veth pair hands over what its sender's stack left for "hardware" to do. Segments of 64 KB pass a link of MTU 1500
whole (TSO, GSO, GRO), so nothing is ever too big; and TCP and UDP checksums stay half-computed (CHECKSUM_PARTIAL), so a
frame copied through a packet socket arrives with a wrong one and is dropped without a word.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946  # linux/sockios.h
_STXCSUM, _STSO, _SGSO, _SGRO = 0x17, 0x1F, 0x24, 0x2C  # linux/ethtool.h, ETHTOOL_S...
_SEGMENTATION_AND_CHECKSUM = (_STSO, _SGSO, _SGRO, _STXCSUM)


def offloads_off(link: str) -> None:
    """What ``ethtool -K LINK tso off gso off gro off tx off`` does, in the caller's network namespace.

    Both ends of a veth pair need it: each end's own setting rules what its host sends. Raises OSError: ENODEV without
    such an interface, EPERM without CAP_NET_ADMIN over the namespace.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for setting in _SEGMENTATION_AND_CHECKSUM:
            value = array.array("B", struct.pack("=II", setting, 0))  # struct ethtool_value
            request = struct.pack("16sP", link.encode(), value.buffer_info()[0])  # struct ifreq
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
