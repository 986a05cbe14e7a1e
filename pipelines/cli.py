"""``likeness``: the same steps as in Dagster, from a terminal.

Exit codes: 0 done (published, passed), 1 internal failure, 2 bad input or request, 3 stopped by a
gate, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import click

from generators import GENERATORS
from generators.base import Conditional, LikenessError, ParameterError
from validators import VALIDATORS

from .boundary import InternalError, boundary
from .declare import Options, to_spec
from .home import Home
from .protection.leaks import LeakError
from .requests.commands import request, worker
from .terminal import Terminal
from .upkeep import augment, revalidate

EXIT_INTERNAL, EXIT_INPUT, EXIT_QUARANTINED, EXIT_INTERRUPTED = 1, 2, 3, 130
PROJECT = Path(__file__).resolve().parent.parent
_PATH = click.Path(path_type=Path)
# How click itself speaks: exits, usage errors, a closed pipe.
_CLICK = (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError)
F = TypeVar("F", bound=Callable[..., Any])


class Group(click.Group):
    """Commands whose known errors become one line and an exit code, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click declares it
        """Run the command and translate its outcome."""
        terminal = Terminal("--json" in ctx.args or "--json" in sys.argv)
        try:
            # The last line of defence: what no step has caught ends in the vault, too.
            with boundary("command", _home(), passing=_CLICK):
                status = super().invoke(ctx)
            ctx.exit(status or 0)
        except InternalError as error:
            terminal.error(str(error))
            ctx.exit(EXIT_INTERNAL)
        except LeakError as error:
            terminal.error(str(error))
            ctx.exit(EXIT_QUARANTINED)
        except LikenessError as error:
            terminal.error(str(error))
            ctx.exit(EXIT_INPUT)
        except KeyboardInterrupt as stop:
            where = f" {stop}" if str(stop) else ""
            terminal.error(
                f"stopped{where}; what was finished is kept, the same command goes on from there"
            )
            ctx.exit(EXIT_INTERRUPTED)


def _stack(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


_common = _stack(
    click.option(
        "--home",
        type=_PATH,
        envvar="LIKENESS_HOME",
        default=Path("likeness_home"),
        show_default=True,
        help="Lake and vault.",
    ),
    click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines."),
)
_dataset = _stack(
    click.argument("source", metavar="DATASET|PATH|URL"),
    click.option("--generator", help="Generator family, see `likeness generators`; default auto."),
    click.option(
        "--rows", type=click.IntRange(1), help="Rows or images; default as many as learned."
    ),
    click.option("--seed", type=click.IntRange(0), help="Same data, same seed: same result."),
    click.option("--target", help="Column that models trained on the data would predict."),
    click.option("--protected", help="Columns of protected groups: a,b."),
    click.option("--entity", help="Columns that identify a subject, never split: a,b."),
    click.option("--set", "settings", multiple=True, help="Hyper-parameter: key=value; repeat."),
    click.option(
        "--kind", "kinds", multiple=True, help="Declare a column: NAME=categorical; repeat."
    ),
    click.option(
        "--policy",
        "policies",
        multiple=True,
        help="Personal column: NAME=drop, mask, keep, fake or fake:PROVIDER of Faker; repeat.",
    ),
    click.option("--drop", multiple=True, help="Leave a column out; repeat."),
    click.option("--contract", help="standard, strict, internal, or a YAML file."),
    click.option(
        "--max-rows",
        type=click.IntRange(50),
        help="Learn from a uniform sample of a larger table; default 1,000,000.",
    ),
    click.option("--table", help="Of a database: the table to learn."),
    click.option(
        "--size", type=click.IntRange(1), help="Of images: the longest side in pixels; default 64."
    ),
    click.option("--name", help="Name of the dataset in the lake."),
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="likeness")
def main() -> None:
    """A likeness of your data, never a copy of it, and the proof.

    \b
    Start here:
      likeness run randhie                     a dataset that ships with Likeness
      likeness run people.csv --target income  your own table
      likeness run photos/                     a folder of images, a sub-folder a class
      likeness run train-images-idx3-ubyte.gz  images as MNIST has them, labels beside it
      likeness ui                              the same in Dagster

    Exit codes: 0 done, 1 internal failure, 2 bad input, 3 stopped by a gate, 130 by Ctrl-C.
    """  # noqa: D301


@main.command()
@_dataset
@_common
def run(source: str, home: Path, as_json: bool, **given: Any) -> int:  # noqa: ANN401
    """Make, judge and publish a likeness.

    DATASET is a name from `likeness datasets`; PATH is a CSV, Parquet, IDX or SQLite file, an
    image folder, or a database as SQLAlchemy writes it (env:NAME takes it from a variable). A
    Parquet file with a column of images is a set of images; --target names their classes.
    """
    from . import steps

    terminal = Terminal(as_json)
    spec = to_spec(source, Options(**given))
    place = Home(home.absolute())
    real = steps.ingest(spec, place)
    terminal.show_real(spec, real)
    with terminal.progress() as progress:
        result = steps.run(spec, place, progress, real=real)
    terminal.show_result(result)
    if result.published is not None:
        _renew_catalogue(place)
    return 0 if result.published is not None else EXIT_QUARANTINED


@main.command()
@_dataset
@_common
@click.option("--output", type=_PATH, help="Also copy the model into this folder.")
@click.option("--paired", type=_PATH, help="Learn to make the images of PATH from these.")
def fit(
    source: str,
    home: Path,
    as_json: bool,
    output: Path | None,
    paired: Path | None,
    **given: Any,  # noqa: ANN401
) -> int:
    """Fit a generator and keep the model in the vault.

    With --paired FOLDER the model makes the images of PATH from those in FOLDER, pairs by name; it
    is kept in --output alone, and used by `likeness edit --translate`.

    The model holds real values: keep a copy as safe as the data.
    """
    from . import steps

    terminal = Terminal(as_json)
    if paired is not None:
        return _fit_pairs(Path(source), paired, output, terminal, given)
    spec = to_spec(source, Options(**given))
    place = Home(home.absolute())
    real = steps.ingest(spec, place)
    terminal.show_real(spec, real)
    release = steps.prepare(spec, place, real)
    with terminal.progress() as progress:
        model = steps.fit(release, progress)
    folder = steps.export_model(release, output) if output else release.model_folder
    terminal.show_model(model, folder)
    return 0


@main.command()
@click.argument("model", type=_PATH)
@click.option("--rows", type=click.IntRange(1), help="Rows or images to make.")
@click.option("--where", multiple=True, help="Condition on every row: 'age>=30'; repeat.")
@click.option(
    "--quota", "quotas", multiple=True, help="Exact share: \"income='>50K':0.5\"; repeat."
)
@click.option("--parity", is_flag=True, help="The target alike in every protected group.")
@click.option("--fill", "table", type=_PATH, help="Complete this table instead.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--output", type=_PATH, required=True, help="Parquet file to write.")
@_common
def sample(
    model: Path,
    table: Path | None,
    output: Path,
    home: Path,
    as_json: bool,
    **request: Any,  # noqa: ANN401
) -> int:
    """Sample a fitted model (a folder that `likeness fit` named) into a Parquet file.

    \b
    Conditions:  age>=30   income='>50K'   sex!=Male   age in 20..40
                 state in (CA, NY)   bmi is missing   joined<2024-03-01
    Quotas:      income='>50K':0.5   exact, by the largest remainder; what all
                 quotas of the column leave of 1 fulfils none of them
    Parity:      --parity   every protected group has the outcomes of all rows
    Completion:  --fill people.csv   draws missing cells and missing columns;
                 rows keep their order and given cells their values

    Exactly the rows asked for, or an error that says which condition has no support. The sample
    has not been judged: `likeness validate` does that.
    """  # noqa: D301
    from . import steps
    from .spec import parse_sample

    if output.suffix != ".parquet":
        raise ParameterError(f"the output must end in .parquet, got {output.name!r}; rename it")
    terminal, place = Terminal(as_json), Home(home.absolute())
    unset: tuple[object, ...] = (None, ())
    asked = {n: value for n, value in request.items() if value not in unset and value is not False}
    if table is not None and set(asked) != {"seed"}:
        raise ParameterError(
            "--fill takes its rows from the table; leave out --rows, --where, --quota and --parity"
        )
    with terminal.progress() as progress:
        if table is not None:
            digest, rows = steps.fill_to_file(
                model, table, asked["seed"], output, progress, home=place
            )
        else:
            wanted = parse_sample(asked)
            rows = wanted.rows
            digest = steps.sample_to_file(model, wanted, output, progress, home=place)
    facts = {**asked, "rows": rows, "content_digest": digest, "file": str(output)}
    terminal.show_facts(facts)
    return 0


@main.command()
@click.argument("model", type=_PATH)
@click.argument("images", type=_PATH)
@click.option("--inpaint", type=_PATH, metavar="MASK", help="Make anew what is white in MASK.")
@click.option("--vary", type=click.FloatRange(0, 1, min_open=True), help="Vary, by a strength.")
@click.option("--upscale", is_flag=True, help="Enlarge to the size that the model makes.")
@click.option("--translate", is_flag=True, help="Make the counterparts; see `fit --paired`.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--output", type=_PATH, required=True, help="New folder, or Parquet file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
def edit(
    model: Path,
    images: Path,
    output: Path,
    as_json: bool,
    **request: Any,  # noqa: ANN401
) -> int:
    """Change images by a fitted model of images: exactly one of the four edits.

    IMAGES is a folder, a Parquet or an IDX file. A sub-folder with the name of one of the model's
    classes is that class; images of others are changed without one. The results show real images
    in part: keep them as safe as those. Each is marked as a composite (IPTC).
    """
    from .edit import EditRequest, edit_images

    terminal = Terminal(as_json)
    with terminal.progress() as progress:
        facts = edit_images(model, images, EditRequest(**request), output, progress)
    terminal.show_facts(facts)
    return 0


@main.command()
@click.argument("synthetic", type=_PATH)
@click.option(
    "--train", type=_PATH, required=True, help="The real data the generator learned from."
)
@click.option("--holdout", type=_PATH, required=True, help="Real data it has not seen.")
@click.option("--target", help="Column that models trained on the data would predict.")
@click.option("--protected", help="Columns of protected groups: a,b.")
@click.option("--entity", help="Columns that identify a subject: a,b.")
@click.option("--kind", "kinds", multiple=True, help="Declare a column: NAME=categorical; repeat.")
@click.option("--contract", default="standard", show_default=True, help="Preset or YAML file.")
@click.option("--encoder", type=_PATH, help="Images: TorchScript or .pt2 file, e.g. of DINOv2.")
@click.option("--encoder-sha256", help="The SHA-256 of that file.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--output", type=_PATH, default=Path("likeness_report"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
def validate(synthetic: Path, as_json: bool, **given: Any) -> int:  # noqa: ANN401
    """Judge any synthetic data, whoever made it, against real train and holdout data.

    \b
    Tables:   likeness validate made.parquet --train train.csv --holdout held_out.csv
    Images:   likeness validate made/ --train train/ --holdout held_out/
              (folders with a sub-folder a class, or Parquet files with images)

    Train is what the generator learned from; the holdout is of the same source, and it has not
    seen it: a tenth to a third of the real data, drawn at random. Without one nobody can tell
    memory from chance. The page, the scores and the verdict go to the output folder.
    """  # noqa: D301
    from . import assess

    terminal = Terminal(as_json)
    request = assess.Request(synthetic=synthetic, **given)
    with terminal.progress() as progress:
        result = assess.validate(request, progress)
    terminal.show_verdict(result.verdict)
    terminal.show_facts({"passed": result.verdict.passed, "report": str(result.report)})
    return 0 if result.verdict.passed else EXIT_QUARANTINED


@main.command()
@_dataset
@_common
@click.option("--canaries", type=click.IntRange(50), default=1_000, show_default=True)
def audit(source: str, canaries: int, home: Path, as_json: bool, **given: Any) -> int:  # noqa: ANN401
    """Bound the privacy loss of a generator from below, with planted records.

    Isolated and made-up records are put into the training rows by fair coins, and guessed from the
    synthetic rows. The model is used for this alone and never published; the numbers stay in the
    vault. Exit code 3 where an ε beyond 1 is proven.
    """
    from . import audit as audits
    from . import steps

    terminal, place = Terminal(as_json), Home(home.absolute())
    spec = to_spec(source, Options(**given))
    release = steps.prepare(spec, place, steps.ingest(spec, place))
    with terminal.progress() as progress:
        result = audits.audit(release, canaries, progress)
    terminal.show_audit(release.generator, result)
    return 0 if result.passed else EXIT_QUARANTINED


@main.command()
@click.argument("version", metavar="NAME[@VERSION]")
@click.option("--rebuild", is_flag=True, help="Sample the model again, where the vault has it.")
@click.option("--key", type=_PATH, help="Public key (PEM) that must have signed the version.")
@_common
def verify(version: str, rebuild: bool, key: Path | None, home: Path, as_json: bool) -> int:
    """Check a published version offline: log, bytes, content, verdict, gates.

    The gates are judged again from the published scores and contract. With --rebuild the model in
    the vault is sampled again, which must give the same content. A version is signed where
    $LIKENESS_SIGNING_KEY names an Ed25519 key in PEM (openssl genpkey -algorithm ed25519).
    """
    from .publication.verify import verify as verify_version

    place, terminal = Home(home.absolute()), Terminal(as_json)
    report = verify_version(place.lake, version, key)
    if rebuild:
        from .rebuild import rebuild as make_again

        with terminal.progress() as progress:
            again = make_again(place, version, progress)
        report = replace(report, checks=(*report.checks, again))
    terminal.show_checks(report)
    return 0 if report.passed else EXIT_QUARANTINED


@main.command()
@click.argument("version", metavar="NAME@VERSION")
@click.option("--reason", required=True, help="Why, in one line; readers of the lake see it.")
@_common
def retire(version: str, reason: str, home: Path, as_json: bool) -> int:
    """Withdraw a published version; its number and its log entry stay."""
    from .publication.retire import retire as retire_version

    place = Home(home.absolute())
    stone = retire_version(place.lake, version, reason)
    _renew_catalogue(place)
    facts = {"retired": version, "reason": stone.reason, "at": stone.at}
    Terminal(as_json).show_facts(facts)
    return 0


@main.command()
@click.option("--dry-run", is_flag=True, help="Remove nothing, only tell.")
@_common
def gc(dry_run: bool, home: Path, as_json: bool) -> int:
    """Remove the files of retired versions and what crashes left behind."""
    from .publication.retire import collect

    place = Home(home.absolute())
    found = collect(place.lake, dry_run=dry_run)
    if found and not dry_run:
        _renew_catalogue(place)
    total = sum(item.bytes for item in found)
    Terminal(as_json).show_facts(
        {"dry_run": dry_run, "bytes": total, "removed": [item.name for item in found]}
    )
    return 0


@main.command()
@_common
def datasets(home: Path, as_json: bool) -> int:
    """List the declared datasets and what is published of them."""
    from .datasets import dataset_names, load_dataset
    from .publication.log import standing

    rows = []
    for name in dataset_names():
        spec = load_dataset(name)
        rows.append(
            {
                "dataset": name,
                "source": spec.source.name or spec.source.path or "",
                "generator": spec.generator.name,
                "contract": spec.contract,
                "published": standing(Home(home.absolute()).lake, name),
                "description": spec.description,
            }
        )
    Terminal(as_json).show_rows("datasets", rows)
    return 0


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
def generators(name: str | None, as_json: bool) -> int:
    """List the generator families, or explain one: what it is, can and takes with --set."""
    from .explain import explain

    terminal = Terminal(as_json)
    if name is None:
        terminal.show_rows("generators", [_generator(key) for key in GENERATORS])
    else:
        terminal.show_family(explain(name, GENERATORS[name]))
    return 0


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
def validators(as_json: bool) -> int:
    """List what is measured."""
    rows = [_family(key, VALIDATORS[key]) for key in VALIDATORS]
    Terminal(as_json).show_rows("validators", rows)
    return 0


@main.command()
@_common
def catalogue(home: Path, as_json: bool) -> int:
    """Write the lake's catalogue page anew and say where it is."""
    from .publication.catalogue import write_catalogue

    path = write_catalogue(Home(home.absolute()).lake)
    Terminal(as_json).show_facts({"catalogue": str(path)})
    return 0


@main.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--catalog",
    envvar="LIKENESS_ICEBERG",
    help="Database as SQLAlchemy writes it; default SQLite in the lake. [env: LIKENESS_ICEBERG]",
)
@_common
def iceberg(names: tuple[str, ...], catalog: str | None, home: Path, as_json: bool) -> int:
    """Register published versions in an Apache Iceberg catalogue.

    The files stay as they are. The table likeness.NAME shows the newest version that stands, the
    tags v1, v2 ... the others; a version that was retired goes. Needs likeness[iceberg].
    """
    from .publication.iceberg import register

    found = register(Home(home.absolute()).lake, names, catalog)
    rows = [
        {
            "table": f"likeness.{item.dataset}",
            "shows": "" if item.current is None else f"{item.dataset}@{item.current}",
            "tags": ", ".join(f"v{version}" for version in item.versions),
            "note": item.problem or item.metadata,
        }
        for item in found
    ]
    Terminal(as_json).show_rows("iceberg", rows)
    return 0


@main.command()
@click.option("--port", type=click.IntRange(1024, 65535), default=3000, show_default=True)
@click.option(
    "--home", type=_PATH, envvar="LIKENESS_HOME", default=Path("likeness_home"), show_default=True
)
def ui(port: int, home: Path) -> int:
    """Start Dagster with the datasets of this checkout; Ctrl-C ends it."""
    dagster_home = Path(os.environ.get("DAGSTER_HOME", PROJECT / "dagster_home")).absolute()
    dagster_home.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(dagster_home),
        "LIKENESS_HOME": str(home.absolute()),
    }
    click.echo(f"Dagster at http://127.0.0.1:{port} (DAGSTER_HOME={dagster_home})")
    command = [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", str(port)]
    return subprocess.run(command, env=environment, cwd=PROJECT, check=False).returncode


def _renew_catalogue(place: Home) -> None:
    """Let the lake's pages show what has just changed.

    They can be made again at any time: that they cannot be written now undoes nothing.
    """
    from .publication.catalogue import write_catalogue

    with suppress(OSError, LikenessError):
        write_catalogue(place.lake)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option("--port", type=click.IntRange(0, 65535), default=8321, show_default=True)
@click.option("--token-file", type=_PATH, help="File that holds the token.")
@click.option("--ask-token-file", type=_PATH, help="File that holds a token which only asks.")
@click.option("--allow-host", "hosts", multiple=True, help="Name the server is reached by; repeat.")
@click.option("--read-only", is_flag=True, help="Show the lake, take no requests.")
@click.option("--no-approvals", is_flag=True, help="Requests get their approval elsewhere.")
@click.option(
    "--home", type=_PATH, envvar="LIKENESS_HOME", default=Path("likeness_home"), show_default=True
)
def serve(home: Path, no_approvals: bool, **given: Any) -> None:  # noqa: ANN401
    """Serve the lake and the inbox: pages for people, REST below /v1 for programs.

    It only drops requests; the sensor of `likeness ui` or `likeness worker` answers them.

    \b
    Token:  made at the first start in HOME/serve.token, for its owner alone; or
            $LIKENESS_TOKEN, or --token-file. Programs send it as
            Authorization: Bearer TOKEN, people paste it once a day. Whoever has it
            may ask, cancel and approve: --no-approvals and --read-only narrow that.
    Others: $LIKENESS_ASK_TOKEN or --ask-token-file is a second token, for those who may
            read the lake and ask, but not approve, nor cancel what others asked.
    Reach:  this machine alone, unless --host says otherwise; that wants a token of
            yours, and a proxy that speaks HTTPS before it. --allow-host names it.
    Bounds: bodies of 1 MiB within 10 s; of an address 120 writes, 600 checks and 20
            wrong tokens a minute, and 20 watched requests at once.
    REST:   /v1/openapi.json describes it; errors are application/problem+json.
    """  # noqa: D301
    from .web.serve import Options as ServeOptions
    from .web.serve import serve as serve_home

    options = ServeOptions(approvals=not no_approvals, **given)
    serve_home(Home(home.absolute()), options, click.echo)


main.add_command(augment)
main.add_command(revalidate)
main.add_command(request)
main.add_command(worker)


def _fit_pairs(
    target: Path, paired: Path, output: Path | None, terminal: Terminal, given: dict[str, Any]
) -> int:
    """Fit a model of image pairs; of the options of `fit` it takes --set and --seed."""
    from .declare import settings_of
    from .edit import fit_pairs

    if output is None:
        raise ParameterError("a model of pairs needs a place; name a new folder with --output")
    others = [name for name, value in given.items() if value and name not in ("settings", "seed")]
    if others:
        raise ParameterError(
            f"--paired goes with --set, --seed and --output, not with --{others[0]}; leave it out"
        )
    parameters = {"seed": given["seed"] or 0, **settings_of(given["settings"])}
    with terminal.progress() as progress:
        facts = fit_pairs(target, paired, parameters, output, progress)
    terminal.show_facts(facts)
    return 0


def _home() -> Home:
    """The home that the command line names; its options are not parsed yet."""
    given = [after for option, after in pairwise(sys.argv) if option == "--home"]
    joined = [word.partition("=")[2] for word in sys.argv if word.startswith("--home=")]
    named = [*given, *joined]
    return Home(Path(named[-1]).absolute()) if named else Home.from_environment()


def _family(name: str, family: type[Any]) -> dict[str, str]:
    summary = (family.__doc__ or "").strip().splitlines()[0]
    return {"name": name, "for": f"{family.modality}s", "what": summary}


def _generator(name: str) -> dict[str, str]:
    family = GENERATORS[name]
    able = "yes" if issubclass(family, Conditional) else "no"
    return {**_family(name, family), "conditions": able}
