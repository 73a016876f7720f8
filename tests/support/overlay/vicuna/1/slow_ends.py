"""Requests that a drain ends get their last response late, as if the thread that sends it stood still."""

import time

from video_llava_server.admission import Admission

SECONDS = 1.5


class SlowEnds(Admission):
    """Stands still between what the drain sees and the response."""

    def leave(self, generation_id: str) -> None:
        super().leave(generation_id)
        if self._folder.is_drain_over:
            time.sleep(SECONDS)
