"""A sliding minute."""

from collections import deque

MINUTE_S = 60.0


class Window:
    """Counts events of the last minute; times in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def add(self, now: float) -> None:
        self._times.append(now)

    def count(self, now: float) -> int:
        while self._times and now - self._times[0] >= MINUTE_S:
            self._times.popleft()
        return len(self._times)
