"""The output of one exec: both streams in the order they were read, addressed by offset.

What it keeps is bounded by the caller through `trim`; each run of bytes of one
stream also counts for its bookkeeping, so that single bytes cannot evade the bound.
"""

from __future__ import annotations

import bisect
from collections import deque

SEGMENT_BYTES_MAX = 64 * 1024
SEGMENT_COST_BYTES = 256


class Budget:
    """How much all logs together hold."""

    def __init__(self) -> None:
        self.used = 0


class _Segment:
    __slots__ = ("data", "start", "stream")

    def __init__(self, start: int, stream: int, data: bytes) -> None:
        self.start = start
        self.stream = stream
        self.data = bytearray(data)

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class OutputLog:
    """Append at the end, read anywhere, forget from the front."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._segments: deque[_Segment] = deque()
        self.end = 0
        """How many bytes were ever appended."""
        self.size = 0
        """What the kept part costs."""

    @property
    def oldest(self) -> int:
        """The first offset that can be read."""
        return self._segments[0].start if self._segments else self.end

    def append(self, stream: int, data: bytes) -> None:
        """Add bytes of one stream."""
        cost = len(data)
        last = self._segments[-1] if self._segments else None
        if last is not None and last.stream == stream and len(last.data) + len(data) <= SEGMENT_BYTES_MAX:
            last.data += data
        else:
            self._segments.append(_Segment(self.end, stream, data))
            cost += SEGMENT_COST_BYTES
        self.end += len(data)
        self._charge(cost)

    def piece(self, offset: int, count_max: int) -> tuple[int, bytes] | None:
        """Return stream and bytes at `offset` (which must be kept), None at the end."""
        if offset >= self.end:
            return None
        at = bisect.bisect_right(self._segments, offset, key=lambda segment: segment.start) - 1
        segment = self._segments[at]
        start = offset - segment.start
        with memoryview(segment.data) as view:
            return segment.stream, bytes(view[start : start + count_max])

    def trim(self, size_max: int, *, needed_from: int | None = None) -> bool:
        """Forget the oldest until at most `size_max` is kept, but nothing from `needed_from` on.

        Return whether that was enough.
        """
        while self.size > size_max and self._segments:
            first = self._segments[0]
            if needed_from is not None and first.end > needed_from:
                break
            self._segments.popleft()
            self._charge(-len(first.data) - SEGMENT_COST_BYTES)
        return self.size <= size_max

    def _charge(self, cost: int) -> None:
        self.size += cost
        self._budget.used += cost
