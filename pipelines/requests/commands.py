"""``likeness request``: ask for test data from a terminal; ``likeness worker`` answers."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import yaml

from generators.base import ParameterError

from ..terminal import Terminal
from .client import Client
from .inbox import Status
from .model import DataRequest, RequestError, parse_request

_PATH = click.Path(path_type=Path)
_EXITS = {"QUARANTINED": 3, "FAILED": 1, "REJECTED": 2, "CANCELED": 2}
TEMPLATE = """\
# yaml-language-server: $schema={schema}
apiVersion: likeness/v1
kind: DataRequest
metadata:
  name: {name}-test              # of the dataset in the lake that the answer becomes a version of
  owner: team-name
  purpose: what the data are for
spec:
  source: {{dataset: {name}}}      # or {{schema: {{columns: ...}}}} for data without a real source
  rows: 1000                     # or scale: 0.1
  # splits: {{train: 0.8, test: 0.2}}
  # where: ["age >= 30", "income = '>50K'"]
  # quotas: ["income = '>50K':0.5"]
  # balance: {{column: income, probabilities: {{">50K": 0.5}}}}
  # fairness: {{target: income, sensitive: [sex]}}
  # columns: {{exclude: [notes], rename: {{sex: gender}}}}
  # edge_cases: {{null_rate: {{age: 0.02}}, boundary: [age], unicode: true, duplicates: 0.01}}
  # privacy: {{level: strict}}
  # acceptance: {{fidelity-detection: {{max: 0.1}}}}
  # output: {{formats: [parquet, csv]}}
  # lifecycle: {{expires: 90d, on_expiry: purge}}
  # preview: 20
"""


def _options(function: Any) -> Any:  # noqa: ANN401 - as click's own decorators
    function = click.option(
        "--json", "as_json", is_flag=True, help="One JSON object, for machines."
    )(function)
    return click.option(
        "--home",
        type=_PATH,
        envvar="LIKENESS_HOME",
        default=Path("likeness_home"),
        show_default=True,
        help="Lake, vault and inbox.",
    )(function)


@click.group()
def request() -> None:
    """Ask for test data: a request in, a published version or a precise reason out.

    \b
      likeness request init randhie > ask.yaml
      likeness request submit ask.yaml --wait
      likeness request get ID --output rows.parquet

    Requests are answered by Dagster (`likeness ui`, sensor requests) or by `likeness worker`.
    """  # noqa: D301


@request.command()
@click.argument("dataset", default="randhie")
def init(dataset: str) -> int:
    """Print a request to start from."""
    from .model import SCHEMA_FILE

    click.echo(TEMPLATE.format(name=dataset, schema=SCHEMA_FILE), nl=False)
    return 0


@request.command()
@click.argument("file", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
def lint(file: Path, as_json: bool) -> int:
    """Check a request by itself: all problems at once, each with its field; needs no data."""
    terminal = Terminal(as_json)
    try:
        found = load(file)
    except RequestError as error:
        _show_problems(terminal, error)
        return 2
    terminal.show_facts({"valid": True, "name": found.metadata.name})
    return 0


@request.command()
@click.argument("file", type=_PATH)
@click.option("--idempotency-key", help="A second submission with it is the first one again.")
@click.option("--wait", "waiting", is_flag=True, help="Until it is answered.")
@click.option("--run", "running", is_flag=True, help="Answer it here and now.")
@_options
def submit(
    file: Path,
    idempotency_key: str | None,
    waiting: bool,
    running: bool,
    home: Path,
    as_json: bool,
) -> int:
    """Drop a request into the inbox."""
    terminal, client = Terminal(as_json), Client(home)
    try:
        receipt = client.submit(load(file), idempotency_key=idempotency_key)
    except RequestError as error:
        _show_problems(terminal, error)
        return 2
    status = client.status(receipt.id)
    if running:
        status = _answered(client, receipt.id, terminal)
    elif waiting:
        status = client.wait(receipt.id)
    return _show(terminal, status)


@request.command()
@click.argument("identity", metavar="ID")
@_options
def status(identity: str, home: Path, as_json: bool) -> int:
    """Show where a request stands."""
    return _show(Terminal(as_json), Client(home).status(identity), failing=False)


@request.command(name="list")
@_options
def list_(home: Path, as_json: bool) -> int:
    """List the requests, the newest first."""
    rows = [
        {"id": s.id, "name": s.name, "state": s.state, "version": s.version or "", "at": _since(s)}
        for s in Client(home).list()
    ]
    Terminal(as_json).show_rows("requests", rows)
    return 0


@request.command()
@click.argument("identity", metavar="ID")
@click.option("--timeout", type=click.FloatRange(0), default=3600.0, show_default=True)
@_options
def wait(identity: str, timeout: float, home: Path, as_json: bool) -> int:
    """Wait until a request is answered; the exit code is that of `likeness run`."""
    return _show(Terminal(as_json), Client(home).wait(identity, timeout))


@request.command()
@click.argument("identity", metavar="ID")
@click.option("--output", type=_PATH, required=True, help="Parquet or CSV file to write.")
@click.option("--dataset", help="Of a request for tables: which.")
@_options
def get(identity: str, output: Path, dataset: str | None, home: Path, as_json: bool) -> int:
    """Copy the published rows of a request into one file."""
    frame = Client(home).read(identity, dataset)
    if output.suffix not in (".parquet", ".csv"):
        raise ParameterError(f"the output must end in .parquet or .csv, got {output.name!r}")
    if output.suffix == ".csv":
        from ..candidate import harmless

        harmless(frame).to_csv(output, index=False)
    else:
        frame.to_parquet(output, index=False)
    Terminal(as_json).show_facts({"rows": len(frame), "file": str(output)})
    return 0


@request.command()
@click.argument("identity", metavar="ID")
@click.option("--reason", default="", help="Why, in a line.")
@_options
def cancel(identity: str, reason: str, home: Path, as_json: bool) -> int:
    """Stop a request that is not published yet."""
    return _show(Terminal(as_json), Client(home).cancel(identity, reason), failing=False)


@request.command()
@click.argument("identity", metavar="ID")
@_options
def approve(identity: str, home: Path, as_json: bool) -> int:
    """Let a request go on that needs approval."""
    return _show(Terminal(as_json), Client(home).approve(identity), failing=False)


@request.command()
@click.argument("identity", metavar="ID", required=False)
@_options
def run(identity: str | None, home: Path, as_json: bool) -> int:
    """Answer a request here and now, or all that wait."""
    from .dropped import take_dropped
    from .work import pending

    terminal, client = Terminal(as_json), Client(home)
    if identity is not None:
        return _show(terminal, _answered(client, identity, terminal))
    take_dropped(client.home)
    done = [_answered(client, waiting, terminal) for waiting in pending(client.home)]
    rows = [
        {"id": s.id, "name": s.name, "state": s.state, "version": s.version or ""} for s in done
    ]
    terminal.show_rows("answered", rows)
    return 0


@click.command()
@click.option("--interval", type=click.FloatRange(0.1), default=2.0, show_default=True)
@click.option("--home", type=_PATH, envvar="LIKENESS_HOME", default=Path("likeness_home"))
def worker(interval: float, home: Path) -> int:
    """Answer the requests of the inbox until Ctrl-C, without Dagster; any number may run."""
    from .dropped import take_dropped
    from .work import pending

    terminal, client = Terminal(False), Client(home)
    click.echo(f"answering the requests in {client.home.requests}; Ctrl-C ends it")
    while True:
        take_dropped(client.home)
        waiting = pending(client.home)
        for identity in waiting:
            done = _answered(client, identity, terminal)
            click.echo(f"{identity} {done.name} {done.state} {done.version or done.message}")
        if not waiting:
            time.sleep(interval)


def load(file: Path) -> DataRequest:
    """The request in a file; a schema that it names by a path is read from beside it.

    Raises:
        RequestError: all problems at once.
        ParameterError: the file cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{file} must be a readable file: {type(error).__name__}") from None
    try:
        fields = yaml.safe_load(text)
        source = fields["spec"]["source"]
        named = source.get("schema")
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return parse_request(text)
    if isinstance(named, str):
        path = file.parent / named
        try:
            source["schema"] = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            raise ParameterError(f"the schema {path} must be readable YAML") from None
        return parse_request(fields)
    return parse_request(text)


def _answered(client: Client, identity: str, terminal: Terminal) -> Status:
    from .work import process

    with terminal.progress() as progress:
        return process(client.home, identity, progress)


def _show(terminal: Terminal, found: Status, *, failing: bool = True) -> int:
    if terminal.as_json:
        terminal.show_facts(found.to_json())
    else:
        facts: dict[str, Any] = {"id": found.id, "name": found.name, "state": found.state}
        shown = {
            "versions": ", ".join(found.versions),
            "message": found.message,
            "likeness on": found.likeness_on,
            "report": found.report,
            "preview": found.preview,
            "progress": _progress(found),
        }
        facts |= {name: value for name, value in shown.items() if value}
        terminal.show_facts(facts)
        for problem in found.problems:
            terminal.show_facts({problem.field: problem.message})
        for gate in found.events[-1].facts.get("gates", ()):
            terminal.show_facts({gate["gate"]: f"{gate['value']} against {gate['bound']}"})
    return _EXITS.get(found.state, 0) if failing else 0


def _progress(found: Status) -> str:
    told = found.progress
    return f"{told['phase']} {told['step']:,} of {told['total']:,}" if told else ""


def _show_problems(terminal: Terminal, error: RequestError) -> None:
    problems = [asdict(problem) for problem in error.problems]
    if terminal.as_json:
        terminal.show_facts({"valid": False, "problems": problems})
        return
    terminal.error(f"the request has {len(problems)} problem(s)")
    for problem in problems:
        terminal.show_facts({problem["field"]: problem["message"]})


def _since(found: Status) -> str:
    return found.events[0].at[:19].replace("T", " ")
