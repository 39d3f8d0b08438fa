"""Questions that wait for a person. In memory: a restart of the daemon denies them all."""

import asyncio
from dataclasses import dataclass, field

from safety_wrapper.policy import Verdict

SHOWN_CHARACTERS = 2000


@dataclass(frozen=True)
class Question:
    """One tool call that waits, with what a person needs to decide it; times in Unix seconds."""

    id: str
    run_id: str
    session_key: str
    tool: str
    params: str
    rule: str
    reason: str
    asked_at: float
    expires_at: float


@dataclass
class ApprovalCounters:
    allowed: int = 0
    denied: int = 0
    expired: int = 0
    withdrawn: int = 0


@dataclass
class Approvals:
    """The waiting questions, in the order in which they were asked."""

    counters: ApprovalCounters = field(default_factory=ApprovalCounters)
    _waiting: dict[str, tuple[Question, asyncio.Future[Verdict]]] = field(default_factory=dict)

    @property
    def waiting(self) -> list[Question]:
        return [question for question, _ in self._waiting.values()]

    async def ask(self, question: Question, *, timeout_s: float) -> Verdict | None:
        """Wait for the decision; None when nobody decided in time."""
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting[question.id] = (question, answer)
        try:
            async with asyncio.timeout(timeout_s):
                verdict = await answer
        except TimeoutError:
            self.counters.expired += 1
            return None
        except asyncio.CancelledError:
            self.counters.withdrawn += 1
            raise
        finally:
            del self._waiting[question.id]
        if verdict is Verdict.ALLOW:
            self.counters.allowed += 1
        else:
            self.counters.denied += 1
        return verdict

    def decide(self, question_id: str, verdict: Verdict) -> bool:
        """Answer a waiting question; False when it does not wait (any more)."""
        waiting = self._waiting.get(question_id)
        if waiting is None or waiting[1].done():
            return False
        waiting[1].set_result(verdict)
        return True
