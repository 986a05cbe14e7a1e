"""REST as its users meet it: over a real socket, on a real lake and a real inbox."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import jsonschema
import pandas as pd
import pytest
import yaml

from pipelines.home import Home
from pipelines.publication.log import resolve
from pipelines.publication.store import open_lake
from pipelines.requests.inbox import Inbox

from ..publication.conftest import bucket as bucket
from ..publication.conftest import s3_server as s3_server
from .conftest import REQUEST, TOKEN, Answer, Site


@pytest.fixture
def desk(make_site: Callable[..., Any], tmp_path: Any) -> Any:
    """A site whose inbox is empty; its lake is empty, too."""
    with make_site(home=Home(tmp_path / "home")) as site:
        yield site


def submitted(site: Site, **headers: str) -> Answer:
    answer = site.ask("POST", "/v1/requests", REQUEST, **headers)
    assert answer.status == 202
    return answer


def test_the_lake_is_listed_and_searched(site: Site) -> None:
    found = site.get("/v1/datasets").json()
    assert [item["name"] for item in found["datasets"]] == ["people", "towns"]
    assert found["datasets"][0]["latest"] == 3
    assert found["datasets"][0]["rows"] == 200
    assert site.get("/v1/datasets?search=towns%20PEOPLE").json()["total"] == 1
    assert site.get("/v1/datasets?search=nobody").json() == {"datasets": [], "total": 0}
    assert site.get("/v1/datasets?limit=1&offset=1").json()["datasets"][0]["name"] == "towns"
    assert site.get("/v1/datasets/people").json()["title"] == "People"


def test_versions_tell_which_are_retired(site: Site) -> None:
    found = site.get("/v1/datasets/people/versions").json()["versions"]
    assert [(one["version"], one["retired"]) for one in found] == [
        (3, None),
        (2, "a test retires it"),
        (1, None),
    ]


def test_columns_show_what_was_published_and_nothing_else(site: Site, lake_home: Home) -> None:
    columns = site.get("/v1/datasets/people/versions/3/columns").json()["columns"]
    facts = {column["name"]: column for column in columns}
    frame = pd.read_parquet(resolve(lake_home.lake, "people@3").path / "data")
    assert facts["sex"]["values"] == sorted(frame["sex"].unique())
    assert facts["sex"]["role"] == "protected"
    assert (facts["visits"]["low"], facts["visits"]["high"]) == (
        frame["visits"].min(),
        frame["visits"].max(),
    )
    assert facts["amount"]["high"] == frame["amount"].max()
    assert facts["since"]["low"].startswith(str(frame["since"].min().date()))


@pytest.mark.parametrize(("offset", "limit"), [(0, 3), (195, 10), (200, 5), (7, 200)])
def test_rows_are_those_of_the_file(site: Site, lake_home: Home, offset: int, limit: int) -> None:
    url = f"/v1/datasets/people/versions/1/rows?offset={offset}&limit={limit}"
    found = site.get(url).json()
    frame = pd.read_parquet(resolve(lake_home.lake, "people@1").path / "data")
    part = frame.iloc[offset : offset + limit]
    assert found["total"] == 200
    assert [row["person_id"] for row in found["rows"]] == part["person_id"].tolist()
    towns = [None if pd.isna(town) else town for town in part["town"]]
    assert [row["town"] for row in found["rows"]] == towns


def test_a_file_is_downloaded_whole_with_its_hash(site: Site, lake_home: Home) -> None:
    files = site.get("/v1/datasets/people/versions/3/files").json()["files"]
    path = "data/train-00000-of-00001.parquet"
    entry = next(file for file in files if file["path"] == path)
    answer = site.get(f"/v1/datasets/people/versions/3/files/{path}")
    assert hashlib.sha256(answer.body).hexdigest() == entry["sha256"]
    assert answer.headers["etag"] == f'"{entry["sha256"]}"'
    assert "attachment" in answer.headers["content-disposition"]
    assert len(pd.read_parquet(io.BytesIO(answer.body))) == 200
    part = site.get(f"/v1/datasets/people/versions/3/files/{path}", Range="bytes=0-3")
    assert (part.status, part.body) == (206, b"PAR1")
    manifest = site.get("/v1/datasets/people/versions/3/files/manifest.json").json()
    assert manifest == site.get("/v1/datasets/people/versions/3").json()


@pytest.mark.parametrize(
    "path",
    [
        "../../../../serve.token",
        "..%2f..%2f..%2f..%2fserve.token",
        "%2e%2e/%2e%2e/_log/00000001.json",
        "/etc/passwd",
        "data",
        "nothing.json",
        "data/../manifest.json",
    ],
)
def test_only_files_of_the_manifest_are_served(site: Site, path: str) -> None:
    answer = site.get(f"/v1/datasets/people/versions/3/files/{path}")
    assert answer.status == 404
    assert site.get(f"/datasets/people/3/{path}").status == 404


@pytest.mark.parametrize(
    "path",
    ["../serve.token", "..%2fvault", "people/_log/../../../serve.token", ".tmp-x", "people", ""],
)
def test_the_lake_is_confined(site: Site, path: str) -> None:
    answer = site.get(f"/lake/{path}")
    assert answer.status == (200 if path == "" else 404)
    assert TOKEN.encode() not in answer.body


def test_a_page_of_the_lake_runs_no_script_but_our_own(site: Site) -> None:
    report = site.get("/datasets/people/3/reports/report.html")
    assert b"<script>bad()" in report.body
    policy = report.headers["content-security-policy"]
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    page = site.get("/lake/people/index.html")
    assert page.status == 200
    assert page.headers["content-security-policy"] == policy


def test_a_lake_in_an_object_service_is_served_alike(
    make_site: Callable[..., Any],
    lake_home: Home,
    bucket: str,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there = open_lake(lake_home.lake), open_lake(bucket)
    for name in [name for folder in here.folders() for name in here.list(folder)]:
        there.put(name, here.get(name))
    published = resolve(lake_home.lake, "people@3").path
    monkeypatch.setenv("LIKENESS_LAKE", bucket)
    path = "data/train-00000-of-00001.parquet"
    with make_site(home=Home(tmp_path / "home")) as site:
        assert site.get("/v1/datasets").json()["total"] == 2
        rows = site.get("/v1/datasets/people/versions/3/rows?limit=2").json()["rows"]
        answer = site.get(f"/v1/datasets/people/versions/3/files/{path}")
        page = site.get("/lake/people/index.html")
    assert answer.body == (published / path).read_bytes()
    assert answer.headers["content-length"] == str(len(answer.body))
    assert [row["person_id"] for row in rows] == [1, 2]
    assert page.body == (lake_home.root / "lake" / "people" / "index.html").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "nobody",
        "nobody/versions",
        "people/versions/9",
        "people/versions/9/rows",
        "nobody/versions/1/files/x",
    ],
)
def test_what_is_not_there_is_told_so(site: Site, path: str) -> None:
    answer = site.get(f"/v1/datasets/{path}")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404


def test_every_wrong_field_is_named_at_once_and_no_value_repeated(desk: Site) -> None:
    wrong = {
        **REQUEST,
        "metadata": {"name": "NOT A NAME", "extra": "Ada Lovelace"},
        "spec": {"source": {"dataset": "people"}, "rows": 0, "seed": "Ada Lovelace"},
    }
    for path in ("/v1/requests", "/v1/requests/check"):
        answer = desk.ask("POST", path, wrong)
        assert answer.status == 422
        assert answer.headers["content-type"] == "application/problem+json"
        said = answer.json()
        pointers = {error["pointer"] for error in said["errors"]}
        assert pointers == {"/metadata/name", "/metadata/extra", "/spec/rows", "/spec/seed"}
        assert "Lovelace" not in answer.text
    assert desk.get("/v1/requests").json()["total"] == 0


@pytest.mark.parametrize("body", ["", "{", "[]", "\xff", "a: &x 1\nb: *x", "null", "x" * 5_000])
def test_what_cannot_be_read_is_refused(desk: Site, body: str) -> None:
    answer = desk.ask("POST", "/v1/requests", body.encode("latin-1"))
    assert answer.status == 422
    assert answer.json()["errors"][0]["pointer"] == ""


def test_a_request_is_dropped_found_and_canceled(desk: Site) -> None:
    answer = submitted(desk)
    identity = answer.json()["id"]
    assert answer.headers["location"] == f"/v1/requests/{identity}"
    status = desk.get(answer.headers["location"]).json()
    assert (status["state"], status["answered"], status["name"]) == (
        "RECEIVED",
        False,
        "people-test",
    )
    assert status["request"] == REQUEST
    listed = desk.get("/v1/requests?state=RECEIVED").json()
    assert [line["id"] for line in listed["requests"]] == [identity]
    assert desk.get("/v1/requests?state=FAILED").json()["total"] == 0
    assert desk.get("/v1/requests?state=NOTHING").status == 422
    assert desk.ask("POST", f"/v1/requests/{identity}/approve").status == 409
    canceled = desk.ask("POST", f"/v1/requests/{identity}/cancel", {"reason": "changed my mind"})
    assert canceled.json()["state"] == "CANCELED"
    assert "changed my mind" in canceled.json()["message"]
    assert desk.ask("POST", f"/v1/requests/{identity}/cancel").status == 200
    assert desk.get("/v1/requests/20260101000000-ffffffffffff").status == 404
    assert desk.ask("POST", "/v1/requests/20260101000000-ffffffffffff/cancel").status == 404


def test_yaml_and_json_ask_for_the_same(desk: Site) -> None:
    text = yaml.safe_dump(REQUEST)
    answer = desk.ask("POST", "/v1/requests", text, Content_Type="application/yaml")
    assert desk.get(answer.headers["location"]).json()["request"] == REQUEST


def test_a_hundred_submissions_with_one_key_are_one_request(desk: Site) -> None:
    answers: list[Answer] = []

    def submit_many() -> None:
        answers.extend(submitted(desk, Idempotency_Key="one") for _ in range(25))

    threads = [threading.Thread(target=submit_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum(answer.json()["created"] for answer in answers) == 1
    assert desk.get("/v1/requests").json()["total"] == 1
    other = {**REQUEST, "metadata": {"name": "other"}}
    assert desk.ask("POST", "/v1/requests", other, Idempotency_Key="one").status == 422


def test_a_request_that_needs_approval_gets_it(desk: Site) -> None:
    identity = submitted(desk).json()["id"]
    inbox = Inbox(desk.home)
    inbox.append(identity, 1, "VALIDATED")
    inbox.append(identity, 2, "NEEDS_APPROVAL", message="more rows than usual")
    answer = desk.ask("POST", f"/v1/requests/{identity}/approve", {"by": "ann"})
    assert answer.json()["state"] == "QUEUED"
    assert answer.json()["events"][-1]["facts"]["approved_by"] == "ann"


def test_approvals_may_be_given_elsewhere(make_site: Callable[..., Any], tmp_path: Any) -> None:
    with make_site(home=Home(tmp_path / "home"), approvals=False) as site:
        identity = submitted(site).json()["id"]
        assert site.ask("POST", f"/v1/requests/{identity}/approve").status == 403


def events(stream: bytes) -> list[tuple[str, str, dict[str, Any]]]:
    """The events of a stream: name, id, data."""
    found = []
    for block in stream.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line[1:])
        if "event" in fields:
            found.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
    return found


def test_events_are_streamed_as_they_happen_and_go_on_where_they_were(desk: Site) -> None:
    identity = submitted(desk).json()["id"]
    inbox = Inbox(desk.home)
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    path = f"/v1/requests/{identity}/events"
    with closing(desk.connection()) as connection:
        connection.request("GET", path, headers=headers)
        stream = connection.getresponse()
        assert stream.getheader("content-type", "").startswith("text/event-stream")
        assert b"event: state\n" in [stream.readline() for _ in range(6)]
        inbox.append(identity, 1, "VALIDATED")
        inbox.append(identity, 2, "QUEUED")
        inbox.append(identity, 3, "RUNNING", attempt=1)
        inbox.tell(identity, {"phase": "fit", "step": 3, "total": 10})
        lines = [b""]
        while not lines[-1].startswith(b"event: progress"):
            lines.append(stream.readline())
        inbox.append(identity, 4, "QUARANTINED", message="no")
        rest = events(b"".join(lines) + stream.read())
    states = [data["state"] for name, _, data in rest if name == "state"]
    assert states == ["VALIDATED", "QUEUED", "RUNNING", "QUARANTINED"]
    assert ("progress", "", {"phase": "fit", "step": 3, "total": 10}) in rest
    assert rest[-1] == ("end", "", {"state": "QUARANTINED"})
    with closing(desk.connection()) as connection:
        connection.request("GET", path, headers={**headers, "Last-Event-ID": "4"})
        again = events(connection.getresponse().read())
    assert [number for name, number, _ in again if name == "state"] == ["5"]
    listed = desk.get(f"/v1/requests/{identity}/events").json()["events"]
    assert [event["number"] for event in listed] == [1, 2, 3, 4, 5]


def test_where_a_report_lies_in_the_vault_is_not_told(desk: Site) -> None:
    identity = submitted(desk).json()["id"]
    inbox = Inbox(desk.home)
    for number, state in enumerate(("VALIDATED", "QUEUED", "RUNNING"), start=1):
        inbox.append(identity, number, state)  # type: ignore[arg-type]
    inbox.append(identity, 4, "QUARANTINED", report="/home/vault/people/report.html", message="no")
    for path in ("", "/events"):
        answer = desk.get(f"/v1/requests/{identity}{path}")
        assert "QUARANTINED" in answer.text
        assert "vault" not in answer.text


def test_the_description_is_whole(site: Site) -> None:
    described = site.get("/v1/openapi.json").json()
    schema = {
        **described["components"]["schemas"]["DataRequest"],
        "components": described["components"],
    }
    jsonschema.validate(REQUEST, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**REQUEST, "kind": "Other"}, schema)
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (path, method)
            assert operation["description"] or path == "/v1/health", (path, method)
