"""The verdict on a history, for people and for programs."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_deploy_testing.chaos.actions import ACTIONS
from sage_deploy_testing.chaos.checker import RULES, check
from sage_plugins.texts import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_deploy_testing.chaos.checker import Violation
    from sage_deploy_testing.chaos.history import Event

__all__ = ["Verdict"]

#: The most violations of a rule that are shown one by one.
_SHOWN: Final = 5
_WORDS: Final = {
    "twice": "run twice",
    "unrun": "answered unrun",
    "refused_ran": "refused and run",
    "not_whole": "not back",
}


class Verdict(NamedTuple):
    """
    The result of a run.

    Attributes:
        start: Its first event.
        seconds: How long accidents happened.
        interrupted: Whether it was ended early.
        violations: The broken rules.
        calls: Number of calls made.
        outcomes: Number of calls by outcome.
        skipped: Number of calls that were not made because too many were in flight.
        done: How often each action was done.
        refused: How often each action ended with an error.
        why_refused: The last of these errors, by action.
        pairs: Each pair of actions that was due at the same time; its `missed` has those that did not happen.
        impossible: Why an action could not be done, by action and service.
        deaths: Number of replicas that ended.
        twice: Number of idempotent calls that ran more than once, as they may.
        back: Seconds from the last accident until each service was back.
        unchecked: What was not checked.
    """

    start: Event
    seconds: float
    interrupted: bool
    violations: Sequence[Violation]
    calls: int
    outcomes: Counter[str]
    skipped: int
    done: Counter[str]
    refused: Counter[str]
    why_refused: dict[str, str]
    pairs: Sequence[Event]
    impossible: dict[str, dict[str, str]]
    deaths: int
    twice: int
    back: dict[str, float]
    unchecked: Sequence[str]

    @classmethod
    def of(cls, events: Sequence[Event]) -> Verdict:
        """Judge a history."""
        by_kind: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_kind[event["event"]].append(event)
        start: Event = by_kind["start"][0] if by_kind["start"] else {"services": {}, "seconds": 0, "seed": None}
        ran = Counter(each["call"] for each in by_kind["ran"])
        idempotent = {each["call"] for each in by_kind["invoke"] if each["idempotent"]}
        done = [each for each in by_kind["nemesis"] if "error" not in each]
        impossible: dict[str, dict[str, str]] = defaultdict(dict)
        for each in by_kind["impossible"]:
            impossible[each["action"]][each["service"]] = each["why"]
        stopped = by_kind["interrupted"]
        return cls(
            start=start,
            seconds=stopped[0]["t"] if stopped else start["seconds"],
            interrupted=bool(stopped) or not by_kind["end"],
            violations=check(events),
            calls=len(by_kind["invoke"]),
            outcomes=Counter(_outcome(each) for kind in ("ok", "fail", "unknown") for each in by_kind[kind]),
            skipped=sum(each["calls"] for each in by_kind["skipped"]),
            done=Counter(each["action"] for each in done),
            refused=Counter(each["action"] for each in by_kind["nemesis"] if "error" in each),
            why_refused={each["action"]: each["text"] for each in by_kind["nemesis"] if "error" in each},
            pairs=by_kind["pair"],
            impossible=dict(impossible),
            deaths=sum(each["kind"] == "replica_failed" for each in by_kind["told"]),
            twice=sum(ran[call] > 1 for call in idempotent),
            back={each["service"]: each["after"] for each in by_kind["whole"]},
            unchecked=[each["text"] for each in by_kind["unchecked"]],
        )

    @property
    def is_clean(self) -> bool:
        """Whether no rule was broken."""
        return not self.violations

    @property
    def broken(self) -> dict[str, int]:
        """How often each rule was broken, including 0."""
        found = Counter(each.rule for each in self.violations)
        return {rule: found[rule] for rule in RULES}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "clean": self.is_clean,
            "seed": self.start["seed"],
            "source": self.start.get("source", ""),
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "services": self.start["services"],
            "calls": self.calls,
            "outcomes": dict(self.outcomes),
            "skipped": self.skipped,
            "actions": {
                name: {"done": self.done[name], "refused": self.refused[name], "why": self.why_refused.get(name)}
                for name in ACTIONS
                if self.done[name] or self.refused[name]
            },
            "pairs": [{name: each[name] for name in ("actions", "service", "missed")} for each in self.pairs],
            "impossible": self.impossible,
            "deaths": self.deaths,
            "idempotent_run_twice": self.twice,
            "back_after": self.back,
            "broken": self.broken,
            "violations": [each._asdict() for each in self.violations],
            "unchecked": list(self.unchecked),
        }

    def lines(self) -> list[str]:
        """Return the verdict for people, one fact a line."""
        word = "clean" if self.is_clean else f"{counted(len(self.violations), 'violation')}"
        early = ", interrupted" if self.interrupted else ""
        broken = ", ".join(f"{number} {_WORDS.get(rule, rule)}" for rule, number in self.broken.items())
        found = [
            f"verdict    {word}: {broken}",
            f"run        {self.seconds:.0f} s{early}, seed {self.start['seed']}",
        ]
        found += [
            f"service    {name}: a probe in place of its class; target {facts['target']}, strategy "
            f"{facts['strategy']}, {counted(facts['replicas'], 'replica')} of {_slots(facts['slots'])}"
            for name, facts in self.start["services"].items()
        ]
        ended = ", ".join(f"{number} {name}" for name, number in self.outcomes.most_common())
        found.append(f"calls      {self.calls}: {ended}")
        if self.skipped:
            found.append(f"           {self.skipped} more were due and not made: too many were in flight")
        acts = ", ".join(f"{name} {number}" for name, number in self.done.items()) or "none"
        found.append(f"accidents  {acts}")
        if self.pairs:
            found.append(f"pairs      {sum(not each['missed'] for each in self.pairs)} of {len(self.pairs)}")
        for each in self.pairs:
            if each["missed"]:
                pair, missed = " and ".join(each["actions"]), " and ".join(each["missed"])
                found.append(f"not paired {pair} to {each['service']}: {missed} was refused or found no replica")
        for name, number in self.refused.items():
            found.append(f"refused    {name} {number}, the last with {self.why_refused[name]}")
        found.append(
            f"replicas   {self.deaths} ended; {counted(self.twice, 'idempotent call')} ran more than once, as they may"
        )
        for name, seconds in self.back.items():
            found.append(f"back       {name} {seconds:.1f} s after the last accident")
        for why, names in _by_reason(self.impossible).items():
            found.append(f"not done   {names}: {why}")
        found += [f"unchecked  {text}" for text in self.unchecked]
        for rule, number in self.broken.items():
            shown = [each.text for each in self.violations if each.rule == rule][:_SHOWN]
            found += [f"{rule:<11}{text}" for text in shown]
            if number > len(shown):
                found.append(f"{'':<11}and {number - len(shown)} more")
        return found


def _slots(number: int) -> str:
    return counted(number, "slot") if number else "as many slots as the load needs"


def _outcome(event: Event) -> str:
    if event["event"] == "ok":
        return "ok"
    stage = event.get("stage")
    return f"{event['error']} ({stage})" if stage else str(event["error"])


def _by_reason(impossible: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return, for each reason, the actions that could not be done, with their services."""
    actions: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for action, whys in impossible.items():
        services: dict[str, list[str]] = defaultdict(list)
        for service, why in whys.items():
            services[why].append(service)
        for why, names in services.items():
            actions[why, tuple(names)].append(action)
    found: dict[str, str] = {}
    for (why, services_of), names in actions.items():
        text = f"{', '.join(names)} to {', '.join(services_of)}"
        found[why] = f"{found[why]}; {text}" if why in found else text
    return found
