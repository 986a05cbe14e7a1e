"""The form: what is filled in becomes a request, and what is wrong is told at its field."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.requests.model import parse_request
from pipelines.web.form import Form
from pipelines.web.shelf import ColumnFacts

COLUMNS = (
    ColumnFacts("age", "numerical", "integer", low=18, high=90),
    ColumnFacts("income", "numerical", "number", low=0.5, high=99.5),
    ColumnFacts("sex", "categorical", "string", role="protected", values=("f", "m")),
    ColumnFacts("it's", "categorical", "integer", role="target", values=(0, 1)),
)
BASE = [("dataset", "people"), ("name", "answer"), ("rows", "100")]


def form_of(*pairs: tuple[str, str]) -> Form:
    form = Form.of_pairs([*BASE, *pairs])
    form.columns = COLUMNS
    return form


def test_a_whole_form_is_a_whole_request() -> None:
    form = form_of(
        ("seed", "7"),
        ("purpose", "tests"),
        *[("where_column", "age"), ("where_op", "between"), ("where_value", "20 .. 40")],
        *[("where_column", ""), ("where_op", "="), ("where_value", "")],
        *[("where_column", "sex"), ("where_op", "in"), ("where_value", "f, m")],
        *[("where_column", "it's"), ("where_op", "is not missing"), ("where_value", "")],
        ("shares", "balance"),
        ("balance_column", "it's"),
        ("balance_1", "50"),
        *[("null_column", "age"), ("null_share", "2.5")],
        *[("boundary", "age"), ("boundary", "income"), ("unseen", "sex")],
        ("unicode", "1"),
        ("duplicates", "1"),
        ("level", "strict"),
        ("k", "20"),
        ("test_share", "20"),
        ("csv", "1"),
        ("expires", "90"),
        ("preview", "10"),
    )
    asked = form.parse()
    assert form.faults == {}
    assert asked == parse_request(
        {
            "apiVersion": "likeness/v1",
            "kind": "DataRequest",
            "metadata": {"name": "answer", "purpose": "tests"},
            "spec": {
                "source": {"dataset": "people"},
                "rows": 100,
                "seed": 7,
                "where": [
                    {"column": "age", "op": "between", "value": [20, 40]},
                    {"column": "sex", "op": "in", "value": ["f", "m"]},
                    {"column": "it's", "op": "is not missing"},
                ],
                "balance": {"column": "it's", "probabilities": {"1": 0.5}},
                "edge_cases": {
                    "null_rate": {"age": 0.025},
                    "boundary": ["age", "income"],
                    "unseen_category": ["sex"],
                    "unicode": True,
                    "duplicates": 0.01,
                },
                "privacy": {"level": "strict", "k": 20},
                "splits": {"train": 0.8, "test": 0.2},
                "output": {"formats": ["parquet", "csv"]},
                "lifecycle": {"expires": "90d"},
                "preview": 10,
            },
        }
    )


def test_quotas_and_fairness() -> None:
    quotas = form_of(
        ("shares", "quotas"),
        ("quota_column", "it's"),
        *[("quota_op", "="), ("quota_value", "1"), ("quota_share", "30 %")],
        *[("quota_op", "="), ("quota_value", "0"), ("quota_share", "70")],
    ).parse()
    assert quotas is not None
    assert [(q.condition, q.share) for q in quotas.spec.quotas] == [
        ("`it's` = 1", 0.3),
        ("`it's` = 0", 0.7),
    ]
    fair = form_of(
        ("shares", "fairness"), ("fair_target", "it's"), ("fair_sensitive", "sex")
    ).parse()
    assert fair is not None
    assert fair.spec.fairness is not None
    assert (fair.spec.fairness.target, fair.spec.fairness.sensitive) == ("it's", ("sex",))


def test_unticked_columns_are_left_out_of_this_dataset_only() -> None:
    ticked = [("include", "age"), ("include", "sex")]
    asked = form_of(("columns_shown", "people"), *ticked).parse()
    assert asked is not None
    assert asked.spec.columns.exclude == ("income", "it's")
    other = form_of(("columns_shown", "another"), *ticked).parse()
    assert other is not None
    assert other.spec.columns.exclude == ()
    none = form_of(("columns_shown", "people"))
    assert none.parse() is None
    assert set(none.faults) == {"include"}


@pytest.mark.parametrize(
    ("pairs", "place"),
    [
        ([("rows", "many")], "rows"),
        ([("rows", "0")], "rows"),
        ([("rows", "1.5")], "rows"),
        ([("rows", "9" * 40)], "rows"),
        ([("seed", "-1")], "seed"),
        ([("name", "Not A Name")], "name"),
        ([("name", "")], "name"),
        ([("where_column", ""), ("where_op", "="), ("where_value", "3")], "where-0"),
        ([("where_column", "age"), ("where_op", "="), ("where_value", "")], "where-0"),
        ([("where_column", "age"), ("where_op", ">="), ("where_value", "old")], "where-0"),
        ([("where_column", "age"), ("where_op", ">="), ("where_value", "nan")], "where-0"),
        ([("where_column", "age"), ("where_op", "between"), ("where_value", "3")], "where-0"),
        ([("where_column", "sex"), ("where_op", "="), ("where_value", "x")], "where-0"),
        ([("where_column", "gone"), ("where_op", "="), ("where_value", "x")], "where-0"),
        ([("where_column", "age"), ("where_op", "~"), ("where_value", "3")], "where-0"),
        ([("shares", "balance")], "shares"),
        ([("shares", "balance"), ("balance_column", "sex")], "shares"),
        (
            [
                ("shares", "balance"),
                ("balance_column", "sex"),
                ("balance_0", "60"),
                ("balance_1", "60"),
            ],
            "shares",
        ),
        ([("shares", "balance"), ("balance_column", "sex"), ("balance_0", "lots")], "balance_0"),
        (
            [
                *[
                    ("shares", "quotas"),
                    ("quota_column", "age"),
                    ("quota_op", "="),
                    ("quota_value", "3"),
                ],
                ("quota_share", ""),
            ],
            "quota-0",
        ),
        ([("null_column", "age"), ("null_share", "")], "null-0"),
        ([("null_column", "age"), ("null_share", "80")], "nulls"),
        ([("duplicates", "100")], "duplicates"),
        ([("level", "none")], "level"),
        ([("k", "0")], "k"),
        ([("test_share", "150")], "test_share"),
        ([("expires", "0")], "expires"),
        ([("preview", "100000")], "preview"),
    ],
)
def test_what_is_wrong_is_told_at_its_field(pairs: list[tuple[str, str]], place: str) -> None:
    kept = [pair for pair in BASE if pair[0] not in dict(pairs)]
    form = Form.of_pairs([*kept, *pairs])
    form.columns = COLUMNS
    assert form.parse() is None
    assert place in form.faults
    assert all(form.faults.values())


def test_the_number_of_a_fault_is_that_of_the_row_on_the_page() -> None:
    form = form_of(
        *[("where_column", ""), ("where_op", "="), ("where_value", "")],
        *[("where_column", "age"), ("where_op", ">="), ("where_value", "20")],
        *[("where_column", "age"), ("where_op", "between"), ("where_value", "3")],
    )
    assert form.parse() is None
    assert set(form.faults) == {"where-2"}


def test_buttons_add_and_remove_rows() -> None:
    rows = [("where_column", "age"), ("where_column", "sex"), ("where_op", "="), ("where_op", "=")]
    assert len(form_of(*rows, ("press", "add:where")).rows["where"]) == 3
    left = form_of(*rows, ("press", "drop:where:0")).rows["where"]
    assert [row["where_column"] for row in left] == ["sex"]
    for nonsense in (
        "drop:where:9",
        "drop:where:x",
        "add:nothing",
        "x",
        "drop:where:-1",
        "drop:where:²",
    ):
        assert len(form_of(*rows, ("press", nonsense)).rows["where"]) == 2


def test_a_long_blank_in_a_range_is_read_at_once() -> None:
    """A search that tries every space anew would take hours for this."""
    wide = f"20{' ' * 400_000}to{' ' * 400_000}40"
    form = form_of(("where_column", "age"), ("where_op", "between"), ("where_value", wide))
    asked = form.parse()
    assert asked is not None
    assert asked.spec.conditions == ("`age` in 20..40",)


def test_a_form_sent_twice_is_one_request_and_a_changed_one_another() -> None:
    one, same, other = (form_of(("once", "a"), ("seed", seed)) for seed in ("1", "1", "2"))
    keys = [form.idempotency_key(asked) for form in (one, same, other) if (asked := form.parse())]
    assert keys[0] == keys[1] != keys[2]


NAMES = [
    *("dataset", "name", "rows", "seed", "purpose", "shares", "balance_column", "balance_0"),
    *("quota_column", "quota_op", "quota_value", "quota_share", "fair_target", "fair_sensitive"),
    *("where_column", "where_op", "where_value", "null_column", "null_share", "boundary"),
    *("unseen", "include", "columns_shown", "unicode", "duplicates", "level", "k", "test_share"),
    *("expires", "preview", "csv", "press", "once", "anything"),
]
VALUES = ["age", "sex", "it's", "people", "=", "between", "in", "is missing", "1..2", "50", "-1"]
VALUES += ["1e999", "nan", "balance", "quotas", "fairness", "strict", "add:where", "drop:null:0"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.text(max_size=8))))
def test_whatever_is_sent_is_a_request_or_has_faults(pairs: list[tuple[str, str]]) -> None:
    form = Form.of_pairs(pairs)
    form.columns = COLUMNS
    asked = form.parse()
    assert (asked is None) == bool(form.faults)
    if asked is not None:
        assert parse_request(asked.to_yaml()) == asked


def described(**columns: tuple[str, str, str]) -> list[tuple[str, str]]:
    """What a browser sends of columns that are described: of each, its kind, values and gaps."""
    pairs = [("dataset", "-"), ("name", "made"), ("rows", "50")]
    for name, (kind, values, missing) in columns.items():
        pairs += [("described_name", name.replace("_", " ")), ("described_kind", kind)]
        pairs += [("described_values", values), ("described_missing", missing)]
    return pairs


def test_columns_can_be_described_where_there_is_no_data() -> None:
    form = Form.of_pairs(
        described(
            id=("id", "", ""),
            code=("text", r"[A-Z]{2}\d{3}", ""),
            firm=("text", "company", ""),
            age=("integer", "18 to 90", "5"),
            pay=("number", "0.00 .. 500", ""),
            state=("category", "paid: 70, still open: 30", ""),
            size=("category", "s, m, l", ""),
            member=("boolean", "20 %", ""),
            joined=("date", "2026-01-01 .. 2026-12-31", ""),
        )
    )
    request = form.parse()
    assert request is not None, form.faults
    declared = request.spec.source.declared
    assert declared is not None
    told = {
        name: column.model_dump(exclude_defaults=True) for name, column in declared.columns.items()
    }
    assert told == {
        "id": {"kind": "id"},
        "code": {"kind": "text", "pattern": r"[A-Z]{2}\d{3}"},
        "firm": {"kind": "text", "faker": "company"},
        "age": {"kind": "integer", "min": 18, "max": 90, "null_share": 0.05},
        "pay": {"kind": "number", "min": 0, "max": 500, "decimals": 2},
        "state": {"kind": "category", "categories": {"paid": 70, "still open": 30}},
        "size": {"kind": "category", "categories": ("s", "m", "l")},
        "member": {"kind": "boolean", "true_share": 0.2},
        "joined": {
            "kind": "date",
            "min": dt.date(2026, 1, 1),
            "max": dt.date(2026, 12, 31),
        },
    }


def test_what_is_wrong_with_a_described_column_is_told_at_its_row() -> None:
    form = Form.of_pairs(
        described(
            first=("integer", "18", ""),
            a_dot_in=("category", "", ""),
            state=("category", "paid: 70, open", ""),
            text=("text", "", ""),
            many=("number", "9 .. 1", ""),
        )
    )
    assert form.parse() is None
    assert set(form.faults) == {f"described-{number}" for number in range(5)}
    assert "18 .. 90" in form.faults["described-0"]
    empty = Form.of_pairs(described())
    assert empty.parse() is None
    assert empty.faults["described-0"] == "describe at least one column"
    twice = Form.of_pairs([*described(x=("id", "", "")), *described(x=("id", "", ""))[3:]])
    assert twice.parse() is None
    assert "another column x" in twice.faults["described-1"]
