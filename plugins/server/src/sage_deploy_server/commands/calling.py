"""The command `sage-deploy call SERVICE.METHOD`, which makes one call."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any, Final
from urllib.parse import quote

import click

from sage_deploy_cli.output import progress, write_result
from sage_deploy_server.commands.client import EnvironmentClient, RefusedError
from sage_deploy_server.commands.environment_options import METHOD, environment_options

__all__ = ["call", "parse_arguments"]

#: One entry of the header `Server-Timing`.
_DURATION: Final = re.compile(r"(queue|run);dur=([0-9.]+)")


@click.command("call", context_settings={"ignore_unknown_options": True})
@click.argument("method", type=METHOD, metavar="SERVICE.METHOD")
@click.argument("arguments", nargs=-1, metavar="[JSON | KEY=VALUE ...]")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Timeout of the call in seconds.")
@click.option("--key", help="Key of the call, for balancers that choose by key.")
@click.option("-v", "--verbose", is_flag=True, help="Print on stderr how long each part of the call took.")
@environment_options
def call(  # noqa: PLR0913 - one parameter for each option
    client: EnvironmentClient,
    method: str,
    arguments: tuple[str, ...],
    timeout: float | None,
    key: str | None,
    *,
    verbose: bool,
) -> None:
    """
    Call METHOD of a running SERVICE and print its result as JSON.

    Give the arguments as one JSON object or array, or as KEY=VALUE pairs. A value that is not JSON is text. The items
    of a stream are printed one a line, as they arrive.
    """
    service, dot, name = method.rpartition(".")
    if not dot or not service or not name:
        raise click.UsageError(f"{method}: name the service and its method, such as greeter.greet")
    headers = {"Accept": "application/x-ndjson, application/json"}
    if timeout is not None:
        headers["X-Timeout"] = str(timeout)
    if key is not None:
        headers["X-Key"] = key
    began = time.monotonic()
    answer = client.ask(
        "POST",
        f"/services/{quote(service, safe='')}/{quote(name, safe='')}",
        parse_arguments(arguments),
        headers=headers,
        read_timeout_s=3600.0 if timeout is None else timeout + 10,  # the service's own timeout ends the call
    )
    kind = answer.headers.get_content_type()
    if kind == "application/x-ndjson":
        for line in answer.lines():
            _print_item(line)
    elif kind == "application/octet-stream":
        sys.stdout.buffer.write(answer.read())
    else:
        write_result(answer.read().decode())
    if verbose:
        spent = (time.monotonic() - began) * 1e3
        parts = _parts(answer.headers.get("Server-Timing", ""), spent)
        progress(f"answered after {spent:.1f} ms{parts}, request {answer.headers['X-Request-Id']}")


def _parts(timing: str, spent: float) -> str:
    """Say where the *spent* milliseconds went: the parts in *timing*, and the rest."""
    known = {name: float(value) for name, value in _DURATION.findall(timing)}
    if not known:
        return ""
    rest = max(0.0, spent - sum(known.values()))
    known["wire" if "run" in known else "run and wire"] = rest  # a stream still runs when its answer begins
    return f" ({', '.join(f'{name} {value:.1f} ms' for name, value in known.items())})"


def _print_item(line: bytes) -> None:
    item = json.loads(line)
    if isinstance(item, dict) and item.keys() == {"error"}:
        raise RefusedError(500, item["error"])
    write_result(line.decode())
    sys.stdout.flush()


def parse_arguments(given: tuple[str, ...]) -> Any:
    """
    Read arguments from a command line: one JSON object or array, or KEY=VALUE pairs. Returns {} for no arguments.

    Raises:
        click.UsageError: They have neither form.
    """
    if not given:
        return {}
    if len(given) == 1 and given[0].lstrip()[:1] in {"{", "["}:
        try:
            return json.loads(given[0])
        except ValueError as error:
            raise click.UsageError(f"{given[0]}: this is not JSON: {error}") from None
    pairs = [each.partition("=") for each in given]
    for name, equals, _ in pairs:
        if not equals or not name.isidentifier():
            raise click.UsageError(f"{name}: give KEY=VALUE, or one JSON object or array")
    return {name: _value(text) for name, _, text in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
