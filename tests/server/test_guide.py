"""The guides server.md and operating.md, checked against a running environment."""

from __future__ import annotations

import doctest
import shlex
import subprocess
from pathlib import Path

from documentation_pages import DOCS, FLAGS, blocks
from second_terminal import PATIENCE, SAGE_DEPLOY, Terminal


def test_commands_of_the_guides_print_what_they_say(tmp_path):
    """Every command of the guides succeeds in a second terminal, in the pages' order, and prints the block after it."""
    pages = ("server.md", "operating.md")
    page = [block for name in pages for block in blocks((DOCS / "guides" / name).read_text(encoding="utf-8"))]
    named = {block.name: block.text for block in page if block.name is not None}
    terminal = Terminal(tmp_path, named["greeting.yaml"], named["greeters.py"])
    try:
        up = terminal.up("--http", "0")
        (line,) = [line for line in up.said if "curl " in line]
        url, token = line.rpartition("/services/")[0].rpartition(" ")[2], line.partition("cat ")[2].partition(")")[0]
        checked = 0
        for block, following in zip(page, [*page[1:], None], strict=True):
            said = following.text if following is not None and following.kind == "text" else ""
            for command in [text for text in block.text.split("$ ") if text and block.kind == "console"]:
                words = shlex.split(command)
                if words[:2] == ["sage-deploy", "up"]:
                    continue
                if words[0] == "curl":
                    real = {"$TOKEN": Path(token).read_text(encoding="ascii"), "http://127.0.0.1:8400": url}
                    for shown, value in real.items():
                        words = [word.replace(shown, value) for word in words]
                    words.insert(1, "-s")
                    said = '"Hello, Ada!"'
                else:
                    words[0] = SAGE_DEPLOY
                done = subprocess.run(
                    words,
                    cwd=tmp_path,
                    env=terminal.variables,
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                    check=True,
                )
                assert not said or doctest.OutputChecker().check_output(said, f"{done.stdout.rstrip()}\n", FLAGS), done
                checked += 1
        assert checked == 15
    finally:
        terminal.close()
