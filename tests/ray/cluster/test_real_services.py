"""Real libraries as services on Ray: they are constructed there, and answer as in this process."""

from __future__ import annotations

import pytest

from real_packages import SEMANTIC_SEARCH, TIME_SERIES, require
from sage_plugins import ServiceDeploymentConfig
from sage_plugins.errors import ResultNotSerializableError

pytestmark = [pytest.mark.ray, pytest.mark.real]

ON_RAY = ServiceDeploymentConfig(target="remote_any", cpu_cores=0.5)


@pytest.fixture(autouse=True)
def packages(cluster, monkeypatch):
    """The packages that these tests need, and the folders from which `sage-deploy up` would import."""
    require()
    monkeypatch.syspath_prepend(TIME_SERIES)
    monkeypatch.syspath_prepend(SEMANTIC_SEARCH)
    return cluster


class RawIndex:
    """Returns the vector database's own results, as an author might who tested it only in one process."""

    def __init__(self):
        import sagevdb

        self._database = sagevdb.SageVDB(sagevdb.DatabaseConfig(2))
        self._database.add([1.0, 2.0], {"name": "only"})

    def raw(self):
        return self._database.search([1.0, 2.0])

    def tuples(self):
        return [(result.metadata["name"], result.score) for result in self.raw()]

    def itself(self):
        return self._database


def test_report_of_the_time_series_is_the_same(environments):
    """The time series example gives the same report on Ray, where each point is added by a call to another process."""
    reports = []
    for profile in (None, "ray"):
        env = environments(f"time-series-{profile}")
        env.load_service_deployment_config(TIME_SERIES / "service_deployment.yaml", profile=profile)
        reports.append(env.service("demo").process())
    assert reports[0] == reports[1]


def test_vectors_are_the_same(environments):
    """Two replicas with batches give the same vectors as the class in this process."""
    import numpy as np
    from semantic_search.embedder import SentenceEmbedder

    texts = [f"the {word} of the matter" for word in ["heart", "top", "end", "rest", "facts", "crux"]]
    env = environments("embedder")
    env.load_service_deployment_config(SEMANTIC_SEARCH / "service_deployment.yaml", profile="ray-batched")
    service, here = env.service("embedder"), SentenceEmbedder()
    calls = [service.submit("embed", text) for text in texts]
    for text, call in zip(texts, calls, strict=True):
        assert np.abs(call.result() - here.embed(text)).max() < 1e-6
    assert len({replica["pid"] for replica in env.get_service_status("embedder")["replicas"]}) == 2


def test_result_that_cannot_be_sent_is_an_error_that_names_it(env):
    """A result that cannot be sent is reported at once with its type, not as a timeout; the replica goes on."""
    env.register_service_with_config("raw", RawIndex, deployment_config=ON_RAY)
    service = env.service("raw")
    with pytest.raises(ResultNotSerializableError, match=r"raw\.raw\b.*QueryResult"):
        service.raw()
    with pytest.raises(ResultNotSerializableError, match="SageVDB"):
        service.itself()
    assert service.tuples() == [("only", 0.0)]
