"""Whether a request may go on to the encoders: not while the server drains, and not while the language model is full.

The language model refuses what is too much as well, but only after the encoders' work. It says how full it is in the
runtime folder; requests on their way to it are counted here. A BLS request instead of the folder hangs Triton 24.10
under load.
"""

import time
from collections import deque

from .errors import Unavailable
from .runtime_folder import RuntimeFolder

# A request that has not reached the language model by then was cancelled, or failed, in the encoders.
_LOST_AFTER_SECONDS = 60.0


class Gate:
    """Lets requests pass while there is room for them. For one thread."""

    def __init__(self, folder: RuntimeFolder) -> None:
        self._folder = folder
        self._passed_at: deque[float] = deque()
        self._num_passed = 0
        self._num_arrived = 0
        folder.write_num_passed(0)

    def enter(self) -> None:
        """Let one request pass. Raises Unavailable."""
        self._folder.refuse_while_draining()
        self._check_room()
        self._passed_at.append(time.monotonic())
        self._num_passed += 1
        self._folder.write_num_passed(self._num_passed)

    def _check_room(self) -> None:
        occupancy = self._folder.read_occupancy()
        self._forget(occupancy.num_arrived - self._num_arrived)
        self._num_arrived = occupancy.num_arrived
        num_requests = occupancy.num_in_flight + len(self._passed_at)
        if occupancy.max_requests and num_requests >= occupancy.max_requests:
            raise Unavailable(
                f"{num_requests} requests are in flight, max_requests is {occupancy.max_requests}: try again, "
                f"retry_after_seconds={occupancy.retry_after_seconds:.1f}"
            )

    def _forget(self, num_arrived: int) -> None:
        lost_before = time.monotonic() - _LOST_AFTER_SECONDS
        while self._passed_at and (num_arrived > 0 or self._passed_at[0] < lost_before):
            self._passed_at.popleft()
            num_arrived -= 1
