"""The search for the largest packet that a path carries: pure, shared by the UDP and the TCP experiments.

Sizes are whole IP packets in bytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

# Sizes that real paths have: RFC 1191's plateaus; Ethernet, jumbo frames and AWS (9001, 8500); PPPoE 1492, IPsec
# 1400-1438, GRE 1476, GCP 1460, VXLAN 1450, Geneve 1442, WireGuard 1420, the IPv6 minimum 1280, and a few between
# them so that no gap below 1500 costs a long bisection.
COMMON_SIZES = (
    *(68, 296, 508, 576, 1006, 1200, 1280, 1300, 1320, 1340, 1360, 1380, 1400, 1414, 1420, 1438, 1442, 1450, 1460),
    *(1476, 1480, 1492, 1500, 2002, 4352, 8166, 8500, 8951, 9001, 9216, 17914, 32000, 65535),
)


class SizeSearch:
    """Narrows (delivered, lost) to ``tolerance`` bytes or less.

    Hints are tried first, then the common sizes by bisection, then the gap that is left. A size that is common and
    delivered is tried with one byte more: where it is the path's very MTU the search ends there, exact to the byte.
    """

    def __init__(self, delivered: int, lost: int, tolerance: int, hints: tuple[int, ...] = ()) -> None:
        self.delivered, self.lost = delivered, lost
        self._tolerance = tolerance
        self._hints = list(hints)
        self._likely = {*COMMON_SIZES, *hints}

    def hint(self, size: int) -> None:
        """Something else measured it: tried next where it lies in the gap."""
        self._hints.append(size)
        self._likely.add(size)

    def next(self) -> int | None:
        """The size to try, or None when the answer is near enough."""
        if self.lost - self.delivered <= 1:
            return None
        for hint in self._hints:
            if self.delivered < hint < self.lost:
                return hint
        if self.delivered in self._hints:
            return self.delivered + 1
        between = COMMON_SIZES[bisect_right(COMMON_SIZES, self.delivered) : bisect_left(COMMON_SIZES, self.lost)]
        if between:
            return between[len(between) // 2]
        if self.delivered in self._likely:
            return self.delivered + 1
        return None if self.lost - self.delivered <= self._tolerance else (self.delivered + self.lost) // 2

    def tell(self, size: int, *, delivered: bool) -> None:
        """A delivery at or above a loss contradicts it: the larger delivery wins (the loss was an accident)."""
        if delivered:
            self.delivered = max(self.delivered, size)
            self.lost = max(self.lost, self.delivered + 1)
        else:
            self.lost = min(self.lost, max(size, self.delivered + 1))
