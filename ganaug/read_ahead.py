"""Work done ahead of whoever needs it, in threads: results in order, in bounded memory.

For work that lets go of Python's global lock, such as Pillow's decoding.
"""

import threading
from collections.abc import Callable, Generator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(
    function: Callable[[T], R],
    items: Sequence[T],
    num_workers: int,
    *,
    max_items: int,
    max_cost: float = float("inf"),
    cost: Callable[[R], float] = lambda _: 0.0,
    here: Callable[[T], bool] = lambda _: False,
) -> Generator[R, None, None]:
    """``map(function, items)``, computed ahead by threads; the same results, and errors at the same place.

    The threads start with the first result that is asked for, and end with the iterator: wrap it in
    :func:`contextlib.closing` where it may be left early.

    Args:
        function: What to do with an item; called from several threads at once.
        items: The items.
        num_workers: Threads; 0 does the work in the calling thread, when it is asked for.
        max_items: Results that wait or are worked on at a time, at most.
        max_cost: Nothing more is begun while the results that wait cost this much together.
        cost: Of one result, for example its bytes.
        here: Items that only the calling thread may touch; their turn comes when they are asked for.

    Example:
        >>> list(read_ahead(abs, [-1, 2, -3], num_workers=2, max_items=4))
        [1, 2, 3]
    """
    if num_workers == 0:
        yield from map(function, items)
        return
    shelf = _Shelf(function, items, max_items, max_cost, cost, here)
    threads = [
        threading.Thread(target=shelf.work, name=f"ganaug-read-{i}", daemon=True)
        for i in range(min(num_workers, len(items)))
    ]
    try:
        for thread in threads:
            thread.start()
        for number, item in enumerate(items):
            yield shelf.do_here(number) if here(item) else shelf.take(number)
    finally:
        shelf.close()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


class _Shelf(Generic[T, R]):
    """Where results wait for their turn."""

    def __init__(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        max_items: int,
        max_cost: float,
        cost: Callable[[R], float],
        here: Callable[[T], bool],
    ) -> None:
        self._function, self._items, self._here = function, items, here
        self._max_items, self._max_cost, self._cost_of = max_items, max_cost, cost
        self._changed = threading.Condition()
        self._results: dict[int, R] = {}
        self._errors: dict[int, BaseException] = {}
        self._begun = 0  # items that threads have taken
        self._asked = 0  # the item that is asked for, or will be next
        self._cost = 0.0
        self._closed = False

    def work(self) -> None:
        """What a thread does."""
        while True:
            with self._changed:
                self._changed.wait_for(self._may_go_on)
                if self._closed or self._begun == len(self._items):
                    return
                number = self._begun
                self._begun += 1
            item = self._items[number]
            if self._here(item):
                continue
            try:
                result = self._function(item)
            except BaseException as error:  # it belongs to whoever asks for this item
                with self._changed:
                    self._errors[number] = error
                    self._changed.notify_all()
                continue
            with self._changed:
                self._results[number] = result
                self._cost += self._cost_of(result)
                self._changed.notify_all()
            del result  # held on the shelf alone

    def _may_go_on(self) -> bool:
        if self._closed or self._begun == len(self._items):
            return True
        # What is asked for is always begun: else both sides could wait for each other.
        room = self._begun < self._asked + self._max_items and self._cost < self._max_cost
        return room or self._begun <= self._asked

    def do_here(self, number: int) -> R:
        """The result of an item that the calling thread computes itself."""
        with self._changed:
            self._asked = number
            self._changed.notify_all()
        return self._function(self._items[number])

    def take(self, number: int) -> R:
        """Waits for a result and takes it away."""
        with self._changed:
            self._asked = number
            self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._results or number in self._errors)
            if number in self._errors:
                raise self._errors.pop(number)
            result = self._results.pop(number)
            self._cost -= self._cost_of(result)
            self._asked = number + 1
            self._changed.notify_all()
            return result

    def close(self) -> None:
        """Threads end when they have finished what they are at."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
