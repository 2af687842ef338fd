"""Ray's long reasons for the end of an actor become a few words; an unknown reason is kept."""

from __future__ import annotations

import pytest

from sage_deploy_ray.cluster.death_reasons import why_gone

#: In the words of Ray 2.60.
DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: ReplicaActor\n\tpid: 4711\n"
OUTLINE = DIED + "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR "


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (
            "ActorDiedError",
            OUTLINE + "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file.",
            "its process 4711 was killed or crashed; if memory ran out, the kernel log of its node says so",
        ),
        (
            "ActorDiedError",
            OUTLINE + "Worker exit detail: Worker exits unexpectedly. Worker exits with an exit code 3.",
            "its process 4711 ended with exit code 3",
        ),
        (
            "ActorDiedError",
            DIED + "The actor died because its node has died. Node Id: 12ab",
            "its node died or was taken out of the cluster",
        ),
        ("ActorDiedError", "The actor is dead because it was killed by `ray.kill`.", "it was killed through Ray"),
        ("ActorUnavailableError", "The actor 12ab is unavailable: RpcError", "it cannot be reached"),
        ("ActorDiedError", "Of something\n\tnew.", "ActorDiedError: Of something new."),
    ],
)
def test_end_of_an_actor_in_a_few_words(kind, text, words):
    assert why_gone(type(kind, (Exception,), {})(text)) == words
