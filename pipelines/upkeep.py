"""``likeness augment`` and ``likeness revalidate``: what schedules do, from a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from .datasets import load_dataset
from .home import Home
from .terminal import Terminal

_HOME = click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="LIKENESS_HOME",
    default=Path("likeness_home"),
    show_default=True,
    help="Lake and vault.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")


@click.command()
@click.argument("dataset")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="Default: today, UTC.")
@_HOME
@_JSON
def augment(dataset: str, day: datetime | None, home: Path, as_json: bool) -> int:
    """Make the fresh rows of a day, as the dataset's `augment` declares them.

    The same day gives the same rows, whenever and wherever it is made.
    """
    from .augment import augment as make

    terminal = Terminal(as_json)
    spec, chosen = load_dataset(dataset), (day or datetime.now(UTC)).date()
    with terminal.progress() as progress:
        made = make(spec, Home(home.absolute()), chosen, progress)
    gain = made.uplift
    terminal.show_facts(
        {
            "day": made.day.isoformat(),
            "model": f"{made.dataset}@{made.version}",
            "rows": made.rows,
            "published": made.published.name if made.published else None,
            "folder": str(made.folder) if made.folder else None,
            "content_digest": made.content_digest,
            "uplift": gain.value,
            "uplift_interval": [gain.low, gain.high],
            "unit": gain.unit,
        }
    )
    return 0


@click.command()
@click.argument("dataset")
@_HOME
@_JSON
def revalidate(dataset: str, home: Path, as_json: bool) -> int:
    """Compare the newest real data with those that the published model has learned from.

    The exit code is 3 where drift is proven.
    """
    from .revalidate import revalidate as compare

    terminal = Terminal(as_json)
    found = compare(load_dataset(dataset), Home(home.absolute()))
    terminal.show_facts(
        {
            "model": f"{found.dataset}@{found.version}",
            "rows": found.rows,
            "drift": found.proven,
            "answer": found.sentence,
            "auc": found.detection.value,
            "auc_interval": [found.detection.low, found.detection.high],
            "columns": {
                score.subject: [score.value, score.low, score.high] for score in found.columns[:10]
            },
        }
    )
    return 3 if found.proven else 0
