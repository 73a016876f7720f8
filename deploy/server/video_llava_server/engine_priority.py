"""In the engine's process: prompts of requests that step back are not read while others' are.

vLLM's own scheduler takes waiting requests by their priority. But prompts that it has begun to read go on, and it fills
each step up: the short rest of one prompt would be read together with a thousand positions of the next one's.
"""

from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler


def with_priority(base: type[Scheduler]) -> type[Scheduler]:
    """Return the scheduler class that does so, of vLLM's for the policy "priority"."""

    class PriorityScheduler(base):
        _tried: Any = None

        def schedule(self, *arguments: Any, **options: Any) -> SchedulerOutput:
            """Schedule a step; where priorities differ, it reads the prompts of the lowest number alone."""
            head = self.waiting.peek_request() if self.waiting else None
            reading: list[Any] = [each for each in self.running if each.num_computed_tokens < each.num_prompt_tokens]
            unread = reading if head is None else [*reading, head]
            first = min((each.priority for each in unread), default=0)
            ahead = [each for each in unread if each.priority == first]
            # It found no room in the last step, which may be held by those that would wait for it.
            is_stuck = head is not None and ahead == [head] and head is self._tried
            self._tried = head
            if len(ahead) == len(unread) or is_stuck:
                return super().schedule(*arguments, **options)
            behind = [each for each in reading if each.priority > first]
            most = self.max_num_scheduled_tokens, self.max_num_active_reqs
            num_positions = sum(each.num_tokens - each.num_computed_tokens for each in ahead)
            self.max_num_scheduled_tokens = min(most[0], num_positions + len(self.running) - len(reading))
            self.max_num_active_reqs = most[1] - len(behind)
            self.running = [each for each in self.running if each not in behind]
            try:
                return super().schedule(*arguments, **options)
            finally:
                self.running += behind
                self.max_num_scheduled_tokens, self.max_num_active_reqs = most

    return PriorityScheduler
