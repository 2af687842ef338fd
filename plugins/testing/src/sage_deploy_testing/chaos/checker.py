"""
Finds violations in a history. It depends only on the events, so a history can be checked again elsewhere.

The rules apply to every call of sage-deploy. It has one outcome, in time. It runs at most once unless it is idempotent.
Its error says what happened. Nothing is left behind.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sage_deploy_testing.chaos.history import Event

__all__ = ["RULES", "Violation", "check"]

#: Each rule, and what breaks it.
RULES: Final = {
    "lost": "a call has no outcome, or ended with its replica although it had not started",
    "twice": "a call ran more often than it may, or has two outcomes",
    "unrun": "a call was answered and never ran",
    "refused_ran": "a call ran although its caller was told that it never would",
    "wrong": "a call got the answer of another one, or a replica ran what nobody called",
    "late": "an outcome came after the call's deadline and the slack",
    "untyped": "an error is neither the method's own nor one of sage-deploy",
    "unexplained": "more calls died with their replicas than those had slots",
    "stuck": "something that was begun has not ended",
    "leaked": "something was left after everything was closed",
    "not_whole": "a service did not come back after the last accident",
}

#: Errors of calls that have not run. `CallTimeoutError` and `ReplicaDiedError` say so themselves.
_REFUSALS: Final = frozenset(
    {
        "CallCancelledError",
        "CallTimeoutError",
        "CircuitOpenError",
        "InvalidKeyError",
        "MethodNotFoundError",
        "NoReplicaError",
        "OverloadedError",
        "ReentrantCallError",
        "ReplicaDiedError",
        "ServiceNotFoundError",
    }
)
#: Errors that only a running method can raise.
_OF_METHODS: Final = frozenset({"ProbeError", "RemoteError"})
#: Events that say that a replica has ended or is being ended.
_ENDS: Final = frozenset({"replica_failed", "replica_unhealthy"})
_OUTCOMES: Final = ("ok", "fail", "unknown")


class Violation(NamedTuple):
    """
    A broken rule.

    Attributes:
        rule: One of `RULES`.
        text: What happened.
        service: The service's name, or empty if it is about none.
        call: Number of the call, if it is about one.
    """

    rule: str
    text: str
    service: str = ""
    call: int | None = None


class _Calls:
    """The events of a history, by call."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.start: Event = {"services": {}, "slack": inf}
        self.made: dict[int, Event] = {}
        self.outcomes: dict[int, list[Event]] = defaultdict(list)
        self.cancelled: set[int] = set()
        self.ran: Counter[int] = Counter()
        self.ended = False
        self.last = max((each["t"] for each in events), default=0.0)
        for event in events:
            kind = event["event"]
            if kind == "start":
                self.start = event
            elif kind == "invoke":
                self.made[event["call"]] = event
            elif kind in _OUTCOMES:
                self.outcomes[event["call"]].append(event)
            elif kind == "cancel":
                self.cancelled.add(event["call"])
            elif kind == "ran":
                self.ran[event["call"]] += 1
            elif kind == "end":
                self.ended = True
        answered = [found for many in self.outcomes.values() for found in many if found["event"] == "ok"]
        #: Services with a replica that could not note what it ran.
        self.blind = {
            self.made[each["call"]]["service"] for each in answered if not each["seen"] and each["call"] in self.made
        }

    def service(self, call: int) -> dict[str, Any]:
        found: dict[str, Any] = self.start["services"].get(self.made[call]["service"], {})
        return found


def check(events: Sequence[Event]) -> list[Violation]:
    """
    Find everything that is wrong in a history.

    Args:
        events: As `history` describes them. Without an `end`, calls within their deadline do not count as lost.

    Returns:
        The violations, sorted by rule as in `RULES`. Empty if the run was clean.
    """
    calls = _Calls(events)
    found = [violation for call in calls.made for violation in _of_call(calls, call)]
    found += [
        Violation("wrong", f"a replica ran a call of number {call}, which nobody made", call=call)
        for call in calls.ran
        if call not in calls.made
    ]
    found += _deaths(calls, events)
    found += _told(events)
    order = list(RULES)
    return sorted(found, key=lambda each: order.index(each.rule))


def _of_call(calls: _Calls, call: int) -> Iterator[Violation]:
    made, outcomes, ran = calls.made[call], calls.outcomes.get(call, ()), calls.ran[call]
    service = made["service"]
    name = f"{service}.{made['method']}, call {call}"

    def violation(rule: str, text: str) -> Violation:
        return Violation(rule, f"{name}: {text}", service, call)

    most = calls.service(call).get("attempts", 1) if made["idempotent"] else 1
    if ran > most:
        yield violation("twice", f"ran {ran} times, and may {most}")
    deadline = inf if made["within"] is None else made["t"] + made["within"] + calls.start["slack"]
    if not outcomes:
        if calls.ended or calls.last > deadline:
            yield violation("lost", f"has no outcome; it was made {made['t']:.3f} s after the start")
        return
    if len(outcomes) > 1:
        yield violation("twice", f"has {len(outcomes)} outcomes: {', '.join(each['event'] for each in outcomes)}")
    outcome = outcomes[0]
    # Under `inline`, the caller's own thread runs the method, and nothing can release it.
    if outcome["t"] > deadline and calls.service(call).get("strategy") != "inline":
        late = outcome["t"] - made["t"] - made["within"]
        yield violation("late", f"ended {late:.3f} s after its deadline of {made['within']:g} s")
    found = _of_answer(call, outcome, ran) if outcome["event"] == "ok" else _of_error(calls, call, outcome, ran)
    for rule, text in found:
        yield violation(rule, text)


def _of_answer(call: int, outcome: Event, ran: int) -> Iterator[tuple[str, str]]:
    if outcome["answer"] != call:
        yield "wrong", f"got the answer of call {outcome['answer']}"
    if outcome["seen"] and not ran:
        yield "unrun", "was answered and never ran"


def _of_error(calls: _Calls, call: int, outcome: Event, ran: int) -> Iterator[tuple[str, str]]:
    error, made = outcome["error"], calls.made[call]
    if not outcome["typed"] and not (error == "CancelledError" and call in calls.cancelled):
        yield "untyped", f"ended with {outcome['text']}"
    if error == "ReplicaDiedError" and not outcome.get("maybe", True):
        yield "lost", f"had not started when its replica died, and went to no other: {outcome['text']}"
    if error in _OF_METHODS and not ran and made["service"] not in calls.blind:
        yield "unrun", f"ended with the method's own error and never ran: {outcome['text']}"
    # An idempotent call may have run before the attempt that was refused.
    if outcome["event"] == "fail" and error in _REFUSALS and ran and not made["idempotent"]:
        yield "refused_ran", f"ran, and its caller was told that it had not: {outcome['text']}"


def _deaths(calls: _Calls, events: Iterable[Event]) -> Iterator[Violation]:
    """Check that no more calls died than had slots. Idempotent calls may have been sent ahead, and do not count."""
    ends = Counter(each["service"] for each in events if each["event"] == "told" and each["kind"] in _ENDS)
    died = Counter(
        calls.made[call]["service"]
        for call, outcomes in calls.outcomes.items()
        if call in calls.made and not calls.made[call]["idempotent"] and outcomes[0].get("error") == "ReplicaDiedError"
    )
    for service, number in died.items():
        facts = calls.start["services"].get(service, {})
        most = ends[service] * facts.get("slots", 1) * facts.get("batch", 1)
        if number > most and facts.get("slots", 1):
            text = f"{number} calls died with {ends[service]} replicas, which can explain {most}"
            yield Violation("unexplained", f"{service}: {text}", service)


def _told(events: Iterable[Event]) -> Iterator[Violation]:
    """Yield the violations that the run itself has noted."""
    for event in events:
        kind, service = event["event"], event.get("service", "")
        if kind == "nemesis" and not event.get("typed", True):
            yield Violation("untyped", f"{service}: {event['action']} ended with {event['text']}", service)
        elif kind == "stuck":
            yield Violation("stuck", f"{event['what']} has not ended")
        elif kind == "leak":
            yield Violation("leaked", event["text"])
        elif kind == "not_whole":
            yield Violation("not_whole", f"{service}: {event['text']}", service)
