"""The files of examples/container fit each other and the server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml

from sage_deploy_server.web.access import PUBLIC_PATHS
from second_terminal import PATIENCE, SAGE_DEPLOY

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "container"


@pytest.fixture
def pod():
    deployment, _ = yaml.safe_load_all((EXAMPLE / "kubernetes.yaml").read_text(encoding="utf-8"))
    return deployment["spec"]["template"]["spec"]


def test_probes_ask_what_needs_no_token(pod):
    """The probes use paths that need no token, and a host name that the server accepts."""
    (container,) = pod["containers"]
    server = yaml.safe_load((EXAMPLE / "service_deployment.yaml").read_text(encoding="utf-8"))["options"]["server"]
    for probe, path in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]:
        asked = container[probe]["httpGet"]
        assert asked["path"] == path
        assert path in PUBLIC_PATHS
        assert [each["value"] in server["allow_hosts"] for each in asked["httpHeaders"]] == [True]
        assert server["http"].endswith(f":{asked['port']}")


def test_a_pod_gets_more_time_to_end_than_its_services(pod):
    """The pod's grace period is longer than the longest drain."""
    services = yaml.safe_load((EXAMPLE / "service_deployment.yaml").read_text(encoding="utf-8"))["services"]
    longest = max(each["performance"]["drain_timeout"] for each in services.values())
    assert pod["terminationGracePeriodSeconds"] > longest


def test_the_image_runs_what_it_copies(pod, tmp_path):
    """The image's command works with the files that it copies: it answers the probes and ends with 0 on SIGTERM."""
    text = (EXAMPLE / "Dockerfile").read_text(encoding="utf-8")
    (copied,) = [line.split()[2:-1] for line in text.splitlines() if line.startswith("COPY")]
    for name in copied:
        shutil.copy(EXAMPLE / name, tmp_path)
    (entry,) = [line for line in text.splitlines() if line.startswith("ENTRYPOINT")]
    command = [word.strip('" ') for word in entry.removeprefix("ENTRYPOINT [").removesuffix("]").split(",")]
    file = tmp_path / "service_deployment.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("0.0.0.0:8400", "127.0.0.1:0"), encoding="utf-8")
    up = subprocess.Popen(
        [SAGE_DEPLOY, *command[1:]],
        cwd=tmp_path,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "SAGE_DEPLOY_TOKEN": "secret"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = ""
        while "running;" not in (line := up.stderr.readline()):
            assert line, said
            said += line
        url = said.partition("services answer at ")[2].partition(",")[0]
        for path in PUBLIC_PATHS:
            with urlopen(Request(url + path, headers={"Host": "greeter"}), timeout=PATIENCE) as answer:  # noqa: S310 - ours
                assert answer.status == 200
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(PATIENCE) == 0
        up.stderr.close()
