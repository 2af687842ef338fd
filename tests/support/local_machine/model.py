"""The model: the expected results of a service's calls."""

from __future__ import annotations

from collections import Counter
from math import inf

__all__ = ["Life"]


class Life:
    """The expected state of one deployment of the service, from `deploy` to `close`."""

    def __init__(self, setting, now):
        self.setting = setting
        self.now = now  # time of the virtual clock
        self.state = "ready"
        self.replicas = setting.replicas
        self.balanced = setting.balancer is not None
        self.running = []  # calls that hold a slot, including those that were given up
        self.leaving = []  # those of them whose replica gets no more calls
        self.queue = []
        self.parked = []
        self.outcomes = Counter()
        self.refused = 0

    @property
    def waiting(self):
        return [*self.queue, *self.parked]

    @property
    def alive(self):
        return [*self.running, *self.waiting]

    @property
    def abandoned(self):
        return [ticket for ticket in self.running if ticket.outcome is not None]

    @property
    def slots(self):
        """Number of slots: of all replicas, or of the only serving one while the others stand by."""
        return self.setting.slots_each * (self.replicas if self.balanced else 1)

    @property
    def staying(self):
        return [ticket for ticket in self.running if ticket not in self.leaving]

    @property
    def free(self):
        return self.slots - len(self.staying)

    def offer(self, ticket):
        """A caller makes a call."""
        ticket.deadline = self.now + ticket.timeout
        ticket.expires = min(ticket.deadline, self.now + (self.setting.queue_timeout or inf))
        if self.state != "ready":
            self._refuse(ticket, "stopped")
        elif self.fits(ticket):
            self._start(ticket)
        elif self._has_room() or (self._sweep() and self._has_room()):
            self.queue.append(ticket)
        elif self.setting.reject:
            self._refuse(ticket, "overloaded")
        else:
            ticket.was_parked = True
            self.parked.append(ticket)

    def fits(self, ticket):
        """Whether the call can start. If a slot is free, no waiting call can use it."""
        limit = self.setting.limit
        turns = inf if limit is None or ticket.method != "work" else limit
        return self.free > 0 and sum(other.method == "work" for other in self.staying) < turns

    def _has_room(self):
        return len(self.queue) < self.setting.queue_size and not self.parked

    def _sweep(self):
        """Remove calls whose time is over from a full queue."""
        late = [ticket for ticket in self.waiting if self.now >= ticket.expires]
        for ticket in late:
            self._leave_queue(ticket, "timeout in the queue")
        return late

    def _refuse(self, ticket, outcome):
        self.refused += 1
        ticket.outcome = outcome

    def _end(self, ticket, outcome):
        ticket.outcome = outcome
        self.outcomes[outcome.split()[0]] += 1

    def _leave_queue(self, ticket, outcome=None):
        (self.queue if ticket in self.queue else self.parked).remove(ticket)
        self._admit()
        if outcome is not None:
            self._end(ticket, outcome)

    def _admit(self):
        while self.parked and len(self.queue) < self.setting.queue_size:
            self.queue.append(self.parked.pop(0))

    def _start(self, ticket):
        self.running.append(ticket)
        if ticket.task != "hang":
            self.finish(ticket, ticket.task)

    def finish(self, ticket, how=None):
        """The method ends, and its slot goes to the call that has waited longest."""
        self.running.remove(ticket)
        if ticket in self.leaving:
            self.leaving.remove(ticket)
        if ticket.outcome is None:
            late = self.now >= ticket.deadline
            self._end(ticket, "timeout in the run" if late else "ok" if how == "echo" else "error")
        self._fill_slots()
        self._settle_drain()

    def _fill_slots(self):
        while (following := next(filter(self.fits, self.waiting), None)) is not None:
            if self.now >= following.expires:
                self._leave_queue(following, "timeout in the queue")
            else:
                self._leave_queue(following)
                self._start(following)

    def scale(self, replicas, leaving=()):
        """Change the number of replicas. *leaving* are calls on replicas that leave."""
        if replicas > self.replicas:
            self.balanced = True
        self.replicas = replicas
        self._leave(leaving)

    def restart(self):
        """Replace all replicas."""
        self._leave(self.staying)

    def balance(self):
        """Let standby replicas serve too."""
        self.balanced = True
        self._fill_slots()

    def _leave(self, tickets):
        self.leaving += tickets
        self._fill_slots()

    def _give_up(self, ticket, outcome):
        """End a running call. Its slot becomes free if its method can be stopped."""
        self._end(ticket, outcome)
        if ticket.can_be_stopped:
            self.finish(ticket)
        self._settle_drain()

    def look(self, ticket):
        """Check whether the call's time is over."""
        if ticket in self.waiting and self.now >= ticket.expires:
            self._leave_queue(ticket, "timeout in the queue")
            self._settle_drain()
        elif ticket in self.running and ticket.outcome is None and self.now >= ticket.deadline:
            self._give_up(ticket, "timeout in the run")

    def is_watched(self, ticket):
        """Whether something checks by itself when the call's time is over."""
        if ticket in self.parked:
            return True
        if ticket in self.running and ticket.can_be_stopped:
            return True
        if ticket in self.running and ticket.runs_in_callers_thread:
            return False  # its caller runs the method
        return ticket.waits_until_over or ticket.verb == "watched"

    def cancel(self, ticket, *, abandon=False):
        """Cancel by `Future.cancel`, or by the task that awaits. Return whether the call is cancelled afterwards."""
        if ticket in self.waiting:
            self._leave_queue(ticket, "cancelled")
            self._settle_drain()
        elif ticket in self.running and ticket.outcome is None and (abandon or ticket.can_be_stopped):
            self._give_up(ticket, "cancelled")
        return ticket.outcome == "cancelled"

    def drain(self):
        """Accept no more calls. Accepted calls continue."""
        if self.state == "ready":
            self.state = "draining"
            while self.parked:
                self._end(self.parked.pop(), "stopped")
        self._settle_drain()

    def _settle_drain(self):
        if self.state == "draining" and not self.queue and len(self.abandoned) == len(self.running):
            self.state = "stopped"

    def end(self):
        """End all calls now. Running methods continue."""
        self.drain()
        while self.queue:
            self._end(self.queue.pop(), "stopped")
        for ticket in self.running.copy():
            if ticket.outcome is None:
                self._give_up(ticket, "stopped")
        self._settle_drain()
