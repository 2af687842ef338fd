"""Runs `sage-deploy up` in its own process, and other commands next to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

SAGE_DEPLOY = str(Path(sys.executable).with_name("sage-deploy"))
PATIENCE = 60


class Terminal:
    """A folder with a deployment file, the processes that run it, and commands next to them."""

    def __init__(self, folder, file, services):
        self.folder = folder
        self.file = folder / "greeting.yaml"
        self.file.write_text(file, encoding="utf-8")
        (folder / "greeters.py").write_text(services, encoding="utf-8")
        self.variables = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
        self.ups = []

    def up(self, *options, file=None):
        """Start `sage-deploy up`. Return when it runs."""
        up = subprocess.Popen(
            [SAGE_DEPLOY, "up", file or self.file.name, *options],
            cwd=self.folder,
            env=self.variables,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.ups.append(up)
        up.said = []
        for line in up.stderr:
            up.said.append(line)
            if line.startswith("running"):
                break
        reader = threading.Thread(target=lambda: up.said.extend(up.stderr))
        reader.start()
        up.reader = reader
        return up

    def run(self, *arguments, code=0):
        """Run a command. Return its stdout and stderr."""
        done = subprocess.run(
            [SAGE_DEPLOY, *arguments],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, done.stderr.decode()
        assert not (code and done.stdout and arguments[0] not in {"call", "status"}), "a failure leaves stdout empty"
        return done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode()

    def close(self):
        for up in self.ups:
            if up.poll() is None:
                up.send_signal(signal.SIGTERM)
            up.wait(PATIENCE)
            up.reader.join(PATIENCE)
            up.stderr.close()
