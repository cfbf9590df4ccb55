"""Shifts of timestamps, worked out by hand."""

from dataclasses import dataclass
from fractions import Fraction

from mmbirefnet.video.timeline import MAX_GAP, Timeline


@dataclass
class Packet:
    pts: int | None
    dts: int | None = None
    duration: int = 10
    stream_index: int = 0
    time_base: Fraction = Fraction(1, 100)


def place(stamps, origin=0, **options):
    """Times in seconds after the shift, and the number of closed gaps."""
    timeline = Timeline(Fraction(origin))
    placed = [Packet(round(100 * stamp), round(100 * stamp), **options) for stamp in stamps]
    for packet in placed:
        timeline.place(packet)
    assert all(packet.pts == packet.dts for packet in placed)
    return [packet.pts / 100 for packet in placed], timeline.closed


def test_times_count_from_the_origin():
    assert place([1.4, 1.5, 1.6], Fraction(7, 5)) == ([0, 0.1, 0.2], 0)


def test_gaps_are_kept_up_to_the_limit_and_closed_above():
    assert place([0, 0.1, 1000]) == ([0, 0.1, 1000], 0)
    assert place([0, 0.1, MAX_GAP + 1, MAX_GAP + 1.1]) == ([0, 0.1, 0.2, 0.3], 1)


def test_declared_durations_count_up_to_the_limit():
    assert place([0, 5 * MAX_GAP], duration=100 * 5 * MAX_GAP) == ([0, MAX_GAP], 1)
    assert place([0, 5], duration=-700) == ([0, 5], 0)


def test_a_clock_that_starts_again_goes_on():
    assert place([50, 50.1, 0, 0.1], 50) == ([0, 0.1, 0.2, 0.3], 1)
    # Frames stored out of order go back a little.
    assert place([0, 0.3, 0.1, 0.2]) == ([0, 0.3, 0.1, 0.2], 0)


def test_one_wrong_timestamp_does_not_move_the_others():
    times, closed = place([0, 0.1, 90000, 0.3, 0.4])
    assert closed == 2
    assert times[:2] == [0, 0.1]
    assert max(times) < 1


def test_streams_are_shifted_alike_and_sound_keeps_a_gap_of_the_image_open():
    timeline = Timeline(Fraction(0))
    image, sound = dict(stream_index=0), dict(stream_index=1, duration=100)
    stamps = [(0, image), (0, sound), *((second * 100, sound) for second in range(1, MAX_GAP + 10))]
    late = Packet((MAX_GAP + 9) * 100, **image)
    for stamp, options in stamps:
        timeline.place(Packet(stamp, **options))
    timeline.place(late)
    assert (late.pts, timeline.closed) == ((MAX_GAP + 9) * 100, 0)
    jump = Packet(10 * MAX_GAP * 100, **sound)
    after = Packet(10 * MAX_GAP * 100 + 5, **image)
    timeline.place(jump)
    timeline.place(after)
    assert after.pts - jump.pts == 5
    assert timeline.closed == 1


def test_packets_without_timestamps_are_left():
    packet = Packet(None)
    assert Timeline(Fraction(3)).place(packet) is None
    assert packet.pts is packet.dts is None
