"""What a client has given to a process and the guest has not confirmed yet.

Bytes are named by their place among all bytes of this client, so they can be sent
again through another worker without being taken twice. No I/O and no waiting here.
"""

from __future__ import annotations

from sandfleet.wire.session_frames import STDIN_WAITING_BYTES_MAX, placed_stdin

IN_FLIGHT_BYTES_MAX = 512 * 1024
"""So little that a worker never has to stop listening to us."""
PIECE_BYTES_MAX = 64 * 1024


class StdinBuffer:
    """Bytes from `start` on, of which those before `sent` are under way."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = 0
        self._sent = 0
        self._is_ended = False
        self._end_was_sent = False
        self._end_was_taken = False

    @property
    def has_room(self) -> bool:
        """Whether more may be taken from the client."""
        return len(self._data) <= STDIN_WAITING_BYTES_MAX

    @property
    def is_pending(self) -> bool:
        """Whether the guest has not got everything."""
        return bool(self._data) or (self._is_ended and not self._end_was_taken)

    def put(self, data: bytes) -> None:
        """Take bytes of the client; after the end they are ignored."""
        if not self._is_ended:
            self._data += data

    def end(self) -> None:
        """Note that the client gives nothing more."""
        self._is_ended = True

    def begin_again(self) -> None:
        """Nothing is under way any more: what is not confirmed has to be sent again."""
        self._sent = self._start
        self._end_was_sent = False

    def next_frame(self) -> bytes | None:
        """Return what to send now, None when there is nothing or enough is under way."""
        end = self._start + len(self._data)
        if self._end_was_sent or self._sent - self._start >= IN_FLIGHT_BYTES_MAX:
            return None
        if self._sent == end and not (self._is_ended and not self._end_was_taken):
            return None
        begin = self._sent - self._start
        piece = bytes(self._data[begin : begin + PIECE_BYTES_MAX])
        position, self._sent = self._sent, self._sent + len(piece)
        self._end_was_sent = self._is_ended and self._sent == end
        return placed_stdin(position, piece, end=self._end_was_sent)

    def taken(self, position: int) -> None:
        """Forget what the guest has confirmed."""
        count = min(position, self._sent) - self._start
        if count < 0:
            return
        del self._data[:count]
        self._start += count
        if self._end_was_sent and not self._data:
            self._end_was_taken = True
