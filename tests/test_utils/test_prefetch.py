import threading
import time

import pytest

from mmbirefnet.utils.prefetch import BoundedWorkers, prefetch


def test_order_errors_and_bound():
    taken, started = [], []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    def work(number):
        started.append(number)
        time.sleep(0.002 * (3 - number % 3))
        return 1 / (number - 5)

    results = []
    for number, result, error in prefetch(work, items(), workers=3, ahead=4):
        assert len(taken) <= len(results) + 4 + 1
        results.append((number, result, type(error)))
    assert [number for number, _, _ in results] == list(range(20))
    assert results[5] == (5, None, ZeroDivisionError)
    assert results[7] == (7, 0.5, type(None))


def test_it_reads_ahead():
    both = threading.Barrier(2, timeout=20)
    assert [result for _, result, _ in prefetch(lambda _: both.wait() >= 0, range(2), workers=2)] == [True, True]


def test_an_early_end_takes_no_more():
    taken = []
    results = prefetch(lambda number: number, (taken.append(n) or n for n in range(100)), workers=2)
    next(results)
    results.close()
    assert len(taken) <= 4


def test_garbage_collected_prefetch_does_not_wait():
    """Garbage is collected in any thread; waiting there for another one can be a deadlock."""
    gate, started = threading.Event(), threading.Event()

    def work(number):
        started.set()
        gate.wait(20)

    results = prefetch(work, range(5), workers=1)
    reader = threading.Thread(target=next, args=(results,), daemon=True)
    reader.start()
    assert started.wait(20)
    start = time.monotonic()
    type(results).__del__(results)
    assert time.monotonic() - start < 5
    gate.set()
    reader.join(20)
    assert not reader.is_alive()


def test_close_waits_for_running_items():
    ended = []

    def work(number):
        time.sleep(0.05)
        ended.append(number)

    with prefetch(work, range(100), workers=2) as results:
        next(results)
    count = len(ended)
    assert list(results) == []
    time.sleep(0.2)
    assert len(ended) == count <= 4


def test_submit_waits_for_room():
    gate, done, submitted = threading.Event(), [], []

    def work(number):
        gate.wait(20)
        done.append(number)

    with BoundedWorkers(1, waiting=2) as workers:

        def feed():
            for number in range(5):
                workers.submit(work, number)
                submitted.append(number)

        feeder = threading.Thread(target=feed)
        feeder.start()
        deadline = time.monotonic() + 20
        while len(submitted) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert submitted == [0, 1, 2]  # one at work, two waiting
        gate.set()
        feeder.join(20)
    assert done == [0, 1, 2, 3, 4]


def test_errors_of_the_items_are_raised():
    with pytest.raises(KeyError):
        list(prefetch(str, ({}[0] for _ in range(1))))
