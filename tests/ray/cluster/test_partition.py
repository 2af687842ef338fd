"""A cluster whose network is cut in two: calls end in time, and lost replicas are replaced on the caller's side."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from driver import Driver
from killing import is_gone
from network import NEEDS_NAMESPACES, Network
from witness import calls_in

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(180), NEEDS_NAMESPACES]


def test_calls_across_a_partition_are_bounded_and_its_replicas_replaced(ray_folder, tmp_path):
    """Calls across a partition end by their deadlines, and none runs twice. Later the far side's old replicas end."""
    witness = tmp_path / "witness"
    with Network() as network:
        head = f"{network.addresses[network.near]}:6399"
        options = ["--head", "--port=6399", "--include-dashboard=false", f"--temp-dir={ray_folder}"]
        network.start_node(network.near, *options)
        network.start_node(network.far, f"--address={head}")
        with Driver(head, witness, within=network.within(network.near), control_timeout=2) as driver:
            before = driver.do("status")["answer"]
            assert {each["node"] for each in before} == {"near", "far"}
            (lost,) = (each for each in before if each["node"] == "far")
            assert [driver.do("call", "run", number)["answer"] for number in range(10)] == list(range(10))

            network.cut()
            began = time.monotonic()
            told, number = [], 10
            while not _is_replaced(driver):
                assert time.monotonic() - began < 60
                told.append(driver.do("call", "run", number))
                number += 1
            took = time.monotonic() - began
            assert max(each["seconds"] for each in told) < 5.5  # the calls' timeout is 5 s
            assert {each.get("error") for each in told} <= {None, "ReplicaDiedError", "CallTimeoutError"}
            assert [driver.do("call", "run", each)["answer"] for each in range(number, number + 10)]

            network.mend()
            pause = threading.Event()
            while not is_gone(lost["pid"]):
                assert time.monotonic() - began < 90
                pause.wait(0.1)
            driver.kill()

    ran = Counter(calls_in(witness))
    assert set(ran.values()) == {1}
    assert took < 30


def _is_replaced(driver):
    found = driver.do("status")["answer"]
    return [(each["state"], each["node"]) for each in found] == [("ready", "near")] * 2
