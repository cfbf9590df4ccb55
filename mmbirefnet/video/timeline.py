"""Times of packets, from 0 on and without absurd gaps."""

from __future__ import annotations

from fractions import Fraction

MAX_GAP = 3600  # seconds without image or sound; recordings of a still screen have gaps of minutes
MAX_STEP_BACK = 10  # seconds within one stream; frames that are stored out of order go back by less


class Timeline:
    """Shifts the timestamps of a file's packets, all streams alike, so that streams stay in sync.

    A gap is closed where no stream has a packet, and where the clock of the file starts again, as it does in
    concatenated recordings. A gap in the images alone, with the sound going on, is kept.

    Args:
        origin: Time of the file, in seconds, that becomes 0.

    Attributes:
        closed: Number of gaps closed so far.
        end: Time at which the last packet so far ends, in seconds; ``None`` before the first.
    """

    def __init__(self, origin: Fraction) -> None:
        self.closed = 0
        self._shift = -origin
        self.end: Fraction | None = None
        self._last: dict[int, Fraction] = {}

    def place(self, packet) -> Fraction | None:
        """Shift a packet's timestamps in place.

        Returns:
            Its time in seconds, ``None`` if it has no timestamp.
        """
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None:
            return None
        unit = packet.time_base
        time = stamp * unit + self._shift
        last = self._last.get(packet.stream_index, time)
        if self.end is not None and (time > self.end + MAX_GAP or time < last - MAX_STEP_BACK):
            self._shift += self.end - time
            self.closed += 1
            time = self.end
        ticks = round(self._shift / unit)
        if packet.pts is not None:
            packet.pts += ticks
        if packet.dts is not None:
            packet.dts += ticks
        self._last[packet.stream_index] = time
        end = time + min(max(0, (packet.duration or 0) * unit), MAX_GAP)
        # A single timestamp may be wrong, and the next one go back: the end follows it.
        self.end = end if self.end is None or time < self.end - MAX_STEP_BACK else max(end, self.end)
        return time
