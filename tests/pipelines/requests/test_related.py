"""Two tables learned from two sources: valid keys, learned counts, and relations that stay."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines import steps
from pipelines.home import Home
from pipelines.publication import log
from pipelines.publication.verify import verify
from pipelines.rebuild import rebuild
from pipelines.requests import Client, Inbox, RequestError, parse_request
from pipelines.requests.work import process
from pipelines.spec import DatasetSpec, GeneratorSpec, SourceSpec

from .conftest import CONTRACT, given_up, killed_before_commit

KEY = {"parent": "customers.id", "child": "orders.customer"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Customers in the north order more often, and members pay more."""
    root = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(2)
    n = 1_600
    customers = pd.DataFrame(
        {
            "id": [f"K{number:06d}" for number in rng.permutation(n)],
            "region": rng.choice(["north", "south"], n, p=[0.4, 0.6]),
            "member": rng.choice(["yes", "no"], n),
            "age": rng.integers(18, 80, n),
        }
    )
    counts = rng.poisson(np.where(customers["region"] == "north", 3.0, 0.8))
    rows = customers.loc[customers.index.repeat(counts)].reset_index(drop=True)
    amount = rng.gamma(4, 10, len(rows)) * np.where(rows["member"] == "yes", 3, 1)
    orders = pd.DataFrame(
        {
            "customer": rows["id"],
            "amount": amount.round(2),
            "channel": rng.choice(["web", "shop"], len(rows)),
        }
    )
    orders.loc[:4, "customer"] = "nobody"
    orders = orders.sample(frac=1, random_state=3).reset_index(drop=True)
    (root / "small.yaml").write_text(CONTRACT)
    home = Home(root / "home")
    for name, frame in (("customers", customers), ("orders", orders)):
        frame.to_csv(root / f"{name}.csv", index=False)
        spec = DatasetSpec(
            name=name,
            source=SourceSpec(kind="csv", path=str(root / f"{name}.csv")),
            generator=GeneratorSpec(name="forest"),
            entity=("customer",) if name == "orders" else (),
            contract=str(root / "small.yaml"),
        )
        assert steps.run(spec, home).published is not None
    return home


def ask(**spec: Any) -> dict[str, Any]:
    tables = {"customers": "customers", "orders": "orders"}
    return {
        "apiVersion": "likeness/v1",
        "kind": "DataRequest",
        "metadata": {"name": "shop"},
        "spec": {"source": {"tables": tables, "keys": [KEY]}, "rows": 800, **spec},
    }


@pytest.mark.slow
def test_both_tables_are_published_with_their_keys_and_relations(shop: Home) -> None:
    client = Client(shop.root)
    status = client.run(client.submit(ask()).id)
    assert status.versions == ("shop.customers@1", "shop.orders@1"), status.message
    customers, orders = (client.read(status.id, f"shop.{n}") for n in ("customers", "orders"))
    real = pd.read_csv(shop.root.parent / "customers.csv")
    assert len(customers) == 800
    assert customers["id"].is_unique
    assert not customers["id"].isin(real["id"]).any()
    assert orders["customer"].isin(customers["id"]).all()
    counts = customers["id"].map(orders["customer"].value_counts()).fillna(0)
    assert (counts.to_numpy() == customers["orders_count"].to_numpy()).all()
    by_region = counts.groupby(customers["region"]).mean()
    assert by_region["north"] == pytest.approx(3.0, abs=0.5)
    assert by_region["south"] == pytest.approx(0.8, abs=0.3)
    member = orders["customer"].map(customers.set_index("id")["member"])
    paid = orders.groupby(member.to_numpy())["amount"].mean()
    assert paid["yes"] / paid["no"] == pytest.approx(3.0, rel=0.3)
    assert list(orders.columns) == ["customer", "amount", "channel"]
    card = (next((Path(shop.lake) / "shop.orders").rglob("README.md"))).read_text()
    assert "every key is one of shop.customers" in card
    assert "5 real children without a parent were left out" in card
    for name in ("shop.customers", "shop.orders"):
        assert verify(shop.lake, name).passed
        assert rebuild(shop, name).passed
    again = client.run(client.submit(ask()).id)
    assert again.versions == status.versions

    # Three workers died between the commits and their event.
    last = status.events[-1].number
    (Inbox(shop).folder(status.id) / "events" / f"{last:04d}.json").unlink()
    given_up(shop, status.id)
    recovered = process(shop, status.id)
    assert (recovered.state, recovered.versions) == ("PUBLISHED", status.versions)


@pytest.mark.slow
def test_both_tables_come_though_every_worker_died_between_them(shop: Home) -> None:
    raw = {**ask(rows=300), "metadata": {"name": "died"}}
    identity = killed_before_commit(shop, raw, 1)
    assert log.standing(shop.lake, "died.customers") == "version 1"
    assert log.standing(shop.lake, "died.orders") == "not yet"
    given_up(shop, identity)
    ended = process(shop, identity)
    assert (ended.state, ended.versions) == ("PUBLISHED", ("died.customers@1", "died.orders@1"))
    for name in ("died.customers", "died.orders"):
        assert verify(shop.lake, name).passed
        assert rebuild(shop, name).passed


@pytest.mark.slow
def test_the_number_of_children_can_be_declared(shop: Home) -> None:
    raw = ask(rows=1_000)
    raw["metadata"] = {"name": "declared"}
    raw["spec"]["source"]["keys"] = [{**KEY, "per_parent": {1: 0.5, 2: 0.5}}]
    client = Client(shop.root)
    status = client.run(client.submit(raw).id)
    assert status.state == "PUBLISHED", status.message
    children = client.read(status.id, "declared.orders")["customer"].value_counts()
    assert children.value_counts().to_dict() == {1: 500, 2: 500}


@pytest.mark.slow
def test_what_is_no_key_is_told_with_its_field(shop: Home) -> None:
    raw = ask()
    raw["spec"]["source"]["keys"] = [{"parent": "customers.region", "child": "orders.customer"}]
    client = Client(shop.root)
    status = client.run(client.submit(raw).id)
    assert status.state == "REJECTED"
    assert {problem.field for problem in status.problems} == {
        "spec.source.keys.0.parent",
        "spec.source.keys.0.child",
    }


@pytest.mark.parametrize(
    "change",
    [{"splits": {"train": 1.0}}, {"where": ["age > 3"]}, {"edge_cases": {"unicode": True}}],
)
def test_what_tables_cannot_have_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        parse_request(ask(**change))
