"""Timestamps of packets, shifted to start at 0, with implausible gaps closed."""

from __future__ import annotations

from fractions import Fraction

MAX_GAP = 3600  # seconds without image or sound; recordings of a still screen have gaps of minutes
MAX_STEP_BACK = 10  # seconds within one stream; less is normal for frames that are stored out of order


class Timeline:
    """Shifts the timestamps of a file's packets, all streams alike, so that streams stay in sync.

    A gap is closed if no stream has packets in it, or if the clock of the file restarts, as in concatenated recordings.
    A gap only in the images, while the sound continues, is kept.

    Args:
        origin: Time in the file, in seconds, that becomes 0.

    Attributes:
        closed: Number of gaps closed so far.
        end: End of the last packet so far, in seconds; ``None`` before the first packet.
    """

    def __init__(self, origin: Fraction) -> None:
        self.closed = 0
        self._shift = -origin
        self.end: Fraction | None = None
        self._last: dict[int, Fraction] = {}

    def place(self, packet) -> Fraction | None:
        """Shift the timestamps of a packet in place.

        Returns:
            Time of the packet in seconds; ``None`` if it has no timestamp.
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
        # If one wrong timestamp is followed by one that goes back, the end also goes back.
        self.end = end if self.end is None or time < self.end - MAX_STEP_BACK else max(end, self.end)
        return time
