"""Work done ahead by threads: the same results and errors as without, in bounded memory, and no thread is left over."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganaug.read_ahead import read_ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ganaug-read")]


class Odd(Exception):
    pass


def square(number: int) -> int:
    if number < 0:
        raise Odd(str(number))
    return number * number


def outcome(results: Any) -> tuple[list[int], str | None]:
    """What comes out, and the error that ends it."""
    got: list[int] = []
    try:
        got.extend(results)
    except Odd as error:
        return got, str(error)
    return got, None


@given(
    items=st.lists(st.integers(-1, 50), max_size=30),
    workers=st.integers(0, 5),
    most=st.integers(1, 6),
    dear=st.integers(0, 100),
    here=st.integers(1, 4),
)
@settings(max_examples=150, deadline=None)
def test_the_same_as_map(items: list[int], workers: int, most: int, dear: int, here: int) -> None:
    results = read_ahead(
        square, items, workers, max_items=most, max_cost=dear, cost=float, here=lambda number: number % here == 0
    )
    # Nothing may be lost when `extend` sees the error: so compare what came before it, too.
    assert outcome(iter(results)) == outcome(map(square, items))
    assert threads() == []


def waiting_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_it_works_ahead_and_not_too_far() -> None:
    begun: list[int] = []
    with closing(read_ahead(lambda i: begun.append(i) or i, range(100), 2, max_items=5)) as results:
        assert begun == [], "nothing before the first result is asked for"
        assert next(results) == 0
        assert waiting_for(lambda: len(begun) == 6)  # five beyond the one that was taken
        time.sleep(0.05)
        assert sorted(begun) == list(range(6))
        assert next(results) == 1 and waiting_for(lambda: len(begun) == 7)
    assert threads() == []


def test_dear_results_are_not_piled_up() -> None:
    begun: list[int] = []
    with closing(
        read_ahead(lambda i: begun.append(i) or i, range(100), 1, max_items=50, max_cost=30.0, cost=lambda _: 10.0)
    ) as results:
        for number in range(20):
            assert next(results) == number
        assert waiting_for(lambda: len(begun) == 23)
        time.sleep(0.05)
        assert len(begun) == 23


def test_one_that_costs_more_than_allowed_is_done_all_the_same() -> None:
    assert list(read_ahead(abs, [1, 2, 3], 2, max_items=4, max_cost=0.0, cost=lambda _: 9.0)) == [1, 2, 3]


def test_some_items_belong_to_the_calling_thread() -> None:
    where: dict[int, str] = {}

    def note(number: int) -> int:
        where[number] = threading.current_thread().name
        return number

    mine = threading.current_thread().name
    assert list(read_ahead(note, range(20), 3, max_items=8, here=lambda i: i % 5 == 0)) == list(range(20))
    assert {number for number, name in where.items() if name == mine} == {0, 5, 10, 15}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_left_early(error: type[BaseException]) -> None:
    """Whatever happens while a result is in use, the threads end."""
    with pytest.raises(error), closing(read_ahead(abs, range(1000), 3, max_items=10)) as results:
        for number in results:
            if number == 7:
                assert threads()
                raise error
    assert threads() == []
