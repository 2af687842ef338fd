"""The checker finds each violation in a history, and reports nothing for a correct history."""

from __future__ import annotations

import pytest

from sage_deploy_testing.chaos import history
from sage_deploy_testing.chaos.checker import RULES, check
from sage_deploy_testing.chaos.verdict import Verdict

FACTS = {"target": "local", "strategy": "pool", "replicas": 1, "slots": 1, "attempts": 3, "batch": 1}
START = {"t": 0.0, "event": "start", "version": 1, "seed": 7, "seconds": 5, "slack": 1.0, "services": {"svc": FACTS}}
END = {"t": 100.0, "event": "end"}


def made(call=0, *, idempotent=False, within=2.0, service="svc"):
    return {
        "t": 1.0,
        "event": "invoke",
        "call": call,
        "service": service,
        "method": "work",
        "idempotent": idempotent,
        "within": within,
    }


def ok(call=0, *, answer=None, seen=True, t=1.5):
    return {"t": t, "event": "ok", "call": call, "answer": call if answer is None else answer, "seen": seen}


def fail(error, call=0, *, event="fail", typed=True, t=1.5, **facts):
    return {"t": t, "event": event, "call": call, "error": error, "text": f"{error}: x", "typed": typed, **facts}


def died(call=0, *, maybe=True):
    return fail("ReplicaDiedError", call, event="unknown" if maybe else "fail", maybe=maybe)


def timed_out(stage, **facts):
    return fail("CallTimeoutError", event="unknown" if stage == "run" else "fail", stage=stage, **facts)


def ran(call=0):
    return {"t": 1.2, "event": "ran", "call": call, "pid": 4}


def told(kind):
    return {"t": 1.4, "event": "told", "kind": kind, "service": "svc", "replica": "svc#0", "reason": ""}


CANCEL = {"t": 1.3, "event": "cancel", "call": 0}


def broken(*events, start=START, end=(END,)):
    return [each.rule for each in check([start, *events, *end])]


@pytest.mark.parametrize(
    "events",
    [
        [made(), ran(), ok()],
        [made(), ok(seen=False)],  # the replica could not record it
        [made(idempotent=True), ran(), ran(), ran(), ok()],
        [made(), ran(), fail("ProbeError")],
        [made(), fail("OverloadedError")],
        [made(), timed_out("queue")],
        [made(), timed_out("run")],
        [made(), ran(), timed_out("run")],
        [made(idempotent=True), ran(), timed_out("queue")],  # its first attempt ran
        [made(), told("replica_failed"), died()],
        [made(), ran(), told("replica_failed"), died()],
        [made(), CANCEL, fail("CallCancelledError")],
        [made(), CANCEL, ran(), fail("CancelledError", event="unknown", typed=False)],
        [made(within=None), ran(), ok(t=90.0)],
        [made(), ran(), ok(t=3.9)],  # late, but within the slack
        [{"t": 1.0, "event": "nemesis", "action": "scale", "service": "svc", "what": "to 2"}],
        [{"t": 1.0, **fail("DeployError"), "event": "nemesis", "action": "scale", "service": "svc", "what": ""}],
    ],
)
def test_what_may_happen_is_clean(events):
    """The checker finds no violation in a correct history."""
    assert broken(*events) == []


@pytest.mark.parametrize(
    ("rule", "events"),
    [
        ("lost", [made()]),
        ("lost", [made(within=None), ran()]),
        ("lost", [made(), told("replica_failed"), died(maybe=False)]),
        ("twice", [made(), ran(), ran(), ok()]),
        ("twice", [made(), ran(), ran(), told("replica_failed"), died()]),
        ("twice", [made(idempotent=True), *[ran()] * 4, ok()]),
        ("twice", [made(), ran(), ok(), fail("ProbeError")]),
        ("unrun", [made(), ok()]),
        ("unrun", [made(), fail("ProbeError")]),
        ("refused_ran", [made(), ran(), fail("OverloadedError")]),
        ("refused_ran", [made(), ran(), timed_out("queue")]),
        ("refused_ran", [made(), CANCEL, ran(), fail("CallCancelledError")]),
        ("wrong", [made(), ran(), ok(answer=7)]),
        ("wrong", [ran(3)]),
        ("late", [made(), ran(), ok(t=4.1)]),
        ("late", [made(), timed_out("run", t=4.1)]),
        ("untyped", [made(), fail("KeyError", typed=False)]),
        ("untyped", [made(), fail("CancelledError", event="unknown", typed=False)]),  # nobody cancelled it
        (
            "untyped",
            [{"t": 1.0, **fail("KeyError", typed=False), "event": "nemesis", "action": "scale", "service": "svc"}],
        ),
        ("unexplained", [made(), died()]),
        ("unexplained", [made(), made(1), told("replica_failed"), died(), died(1)]),
        ("stuck", [{"t": 9.0, "event": "stuck", "what": "a caller"}]),
        ("leaked", [{"t": 9.0, "event": "leak", "text": "thread 'x'"}]),
        ("not_whole", [{"t": 9.0, "event": "not_whole", "service": "svc", "text": "0 of 1 replicas"}]),
    ],
)
def test_what_must_not_happen_is_found(rule, events):
    """The checker finds exactly the violated rule."""
    assert broken(*events) == [rule]
    assert rule in RULES


def test_a_call_of_a_history_that_was_cut_off_is_lost_once_its_time_is_over():
    """
    In a history that was cut off, a call without an outcome is lost only after its deadline and the slack.

    Here they are over 4 s after the start. Before that, its outcome could still have come.
    """
    assert broken(made(), told("replica_ready"), end=()) == []
    assert broken(made(), {**told("replica_ready"), "t": 4.2}, end=()) == ["lost"]


def test_inline_calls_cannot_be_released_at_their_deadlines():
    """A late answer of an inline call is no violation: the method runs in the caller's own thread."""
    inline = {**START, "services": {"svc": {**FACTS, "strategy": "inline"}}}
    assert broken(made(), ran(), ok(t=9.0), start=inline) == []


def test_idempotent_calls_that_died_were_sent_ahead():
    """More idempotent calls than slots may die with a replica: it may have got some ahead."""
    calls = [each for call in range(5) for each in (made(call, idempotent=True), died(call))]
    assert broken(*calls, told("replica_failed")) == []


def test_batches_share_slots():
    """With batches, one slot holds several calls, so more calls than slots may die with one replica."""
    batches = {**START, "services": {"svc": {**FACTS, "batch": 2}}}
    calls = [each for call in range(2) for each in (made(call), died(call))]
    assert broken(*calls, told("replica_failed"), start=batches) == []


def test_history_is_the_same_after_a_round_by_its_file(tmp_path):
    """A history that is written to a file and read back is unchanged."""
    events = [START, made(), ran(), ok(answer=7), END]
    history.write(events, tmp_path / "h.jsonl")
    assert history.read(tmp_path / "h.jsonl") == events


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not the start"),
        ("{", ":1: is no JSON"),
        ("[]", ":1: is no event"),
        ('{"t": 1, "event": "ok"}', "start"),
    ],
)
def test_file_that_is_no_history_is_refused(tmp_path, text, said):
    """A file that is not a history is refused with its line."""
    (tmp_path / "h.jsonl").write_text(text)
    with pytest.raises(ValueError, match=said):
        history.read(tmp_path / "h.jsonl")


def test_verdict_counts_and_shows_what_was_broken():
    """A verdict counts the violations by rule, shows the first five, and says how many more there are."""
    calls = [each for call in range(8) for each in (made(call), ran(call), ran(call), ok(call))]
    verdict = Verdict.of([START, *calls, END])
    assert not verdict.is_clean
    assert verdict.broken["twice"] == 8
    assert verdict.as_dict()["outcomes"] == {"ok": 8}
    lines = verdict.lines()
    assert lines[0].startswith("verdict    8 violations: 0 lost, 8 run twice")
    assert sum(line.startswith("twice") for line in lines) == 5
    assert "and 3 more" in lines[-1]
