"""What monitors count in child processes."""

from __future__ import annotations

import threading

import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_process
import sage_deploy_threading
from sage_plugins import Environment, ServiceDeploymentConfig, hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration
from sound_monitor import Sound, SoundRecorder


class Unpicklable(Sound):
    class Recorder(SoundRecorder):
        def snapshot(self):
            return threading.Lock()


class Plugin:
    @hookimpl
    def sage_register_monitors(self):
        return [Registration("unpicklable", Unpicklable, "counts calls")]


class Echo:
    def echo(self, value):
        return value


def test_counts_that_cannot_be_pickled_are_named_and_the_others_arrive(caplog, until):
    """If one monitor's counts cannot be pickled, the log names the monitor, and those of other monitors arrive."""
    registry = Registry.of(
        sage_deploy_balancers, sage_deploy_monitors, sage_deploy_process, sage_deploy_threading, Plugin()
    )
    config = ServiceDeploymentConfig(target="process", monitors=("metrics", "unpicklable"))
    with Environment("counted", registry=registry) as env:
        env.register_service_with_config("echo", Echo, deployment_config=config)
        assert env.service("echo").echo(1) == 1
        status = env.get_service_status("echo")
        (replica,) = status["replicas"]
        assert replica["pid"] is not None
        assert status["metrics"].request_count == 1
        until(lambda: any("monitor 'unpicklable'" in line for line in caplog.messages))
