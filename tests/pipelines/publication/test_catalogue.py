from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import rdflib
from PIL import Image
from rdflib.namespace import DCAT, DCTERMS

from pipelines.publication.catalogue import dataset_names, write_catalogue
from pipelines.publication.publish import publish
from pipelines.publication.store import LocalStore


class Page(HTMLParser):
    """Links, sources and cards of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.cards: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if "href" in values:
            self.links.append(values["href"] or "")
        if "src" in values:
            self.sources.append(values["src"] or "")
        if tag == "article":
            self.cards.append(values["data-find"] or "")


def test_the_pages_show_each_dataset_and_their_links_exist(make_release, images, tmp_path):
    lake = tmp_path / "lake"
    publish(lake, make_release())
    publish(lake, make_release(key="key-2", facts={"title": "People", "license": "MIT"}))
    release = make_release(*images, dataset="digits")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "sheet.png")
    files = {**release.files, "contact_sheet.png": tmp_path / "sheet.png"}
    publish(lake, dataclasses.replace(release, files=files))
    path = Path(write_catalogue(lake))
    text = path.read_text()
    page = Page(text)
    assert [card.split()[0] for card in page.cards] == ["digits", "people"]
    assert "insured" in page.cards[1], "columns can be searched"
    assert len(page.sources) == 1
    assert page.sources[0].startswith("data:image/png;base64,")
    licence = "<dt>Licence</dt><dd>MIT</dd>"
    for part in ("people@2", "3 versions", "<dt>Rows</dt><dd>200</dd>", licence):
        assert part in text
    told = (lake / "people/index.html").read_text()
    figure = '<span class="figure">0.031</span>'
    for part in ("people@2", figure, "likeness verify people@2", licence, "read_parquet"):
        assert part in told
    for file in (path, lake / "people/index.html", lake / "digits/index.html"):
        text, page = file.read_text(), Page(file.read_text())
        for link in page.links:
            assert (file.parent / link).is_file(), link
        outside = re.sub(r'<style>.*?</style>|(?:xmlns|src)="[^"]*"', "", text, flags=re.S)
        assert not re.search(r"(?:https?:)?//[a-z]", outside), "nothing from elsewhere"
        assert "link" not in page.tags
        assert "iframe" not in page.tags


def test_the_same_is_there_for_machines(make_release, tmp_path):
    version = publish(tmp_path / "lake", make_release())
    write_catalogue(tmp_path / "lake")
    catalogue = json.loads((tmp_path / "lake/catalog.jsonld").read_text())
    (dataset,) = catalogue["dcat:dataset"]
    assert dataset["dct:identifier"] == "people@1"
    (file,) = dataset["dcat:distribution"]
    assert (tmp_path / "lake" / file["dcat:downloadURL"]).stat().st_size == file["dcat:byteSize"]
    assert file["spdx:checksum"]["spdx:checksumValue"] == version.manifest().data_files[0].sha256


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib")
def test_the_machines_part_is_dcat_as_rdf_reads_it(make_release, tmp_path):
    version = publish(tmp_path / "lake", make_release())
    write_catalogue(tmp_path / "lake")
    text = (tmp_path / "lake/catalog.jsonld").read_text()
    graph = rdflib.Graph().parse(data=text, format="json-ld", publicID="https://lake.example/")
    (dataset,) = graph.subjects(rdflib.RDF.type, DCAT.Dataset)
    assert dataset == rdflib.URIRef("https://lake.example/people/")
    assert [str(title) for title in graph.objects(dataset, DCTERMS.title)] == ["people"]
    (issued,) = graph.objects(dataset, DCTERMS.issued)
    assert issued.toPython() == datetime(2026, 1, 31, 12, tzinfo=UTC)
    (file,) = graph.objects(dataset, DCAT.distribution)
    (url,), (size,) = graph.objects(file, DCAT.downloadURL), graph.objects(file, DCAT.byteSize)
    path = tmp_path / "lake" / url.removeprefix("https://lake.example/")
    assert path.is_relative_to(version.path)
    assert path.stat().st_size == size.toPython()
    (digest,) = graph.objects(None, rdflib.URIRef("http://spdx.org/rdf/terms#checksumValue"))
    assert str(digest) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_text_of_others_is_text(make_release, frame, tmp_path):
    facts = {"title": '<img src="x">', "description": "<script>alert(1)</script>"}
    frame = frame.assign(town='<img src="y">')
    publish(tmp_path / "lake", make_release(frame, facts=facts))
    first = Path(write_catalogue(tmp_path / "lake"))
    for file in (first, tmp_path / "lake/people/index.html"):
        page = Page(file.read_text())
        assert "img" not in page.tags
        assert page.tags.count("script") == 1


def test_a_damaged_dataset_hides_no_other(make_release, tmp_path):
    lake = tmp_path / "lake"
    publish(lake, make_release())
    for name in ("cut", "changed", "gone", "torn"):
        publish(lake, make_release(dataset=name))
    (lake / "cut/_log/00000001.json").unlink()
    (lake / "cut/_log/00000001.json").write_text("{}")
    snapshot = next((lake / "changed/snapshots").iterdir())
    (snapshot / "manifest.json").chmod(0o644)
    (snapshot / "manifest.json").write_text("{}")
    (next((lake / "gone/snapshots").iterdir()) / "manifest.json").unlink()
    data = next((lake / "torn/snapshots").iterdir()) / "data/train-00000-of-00001.parquet"
    data.chmod(0o644)
    data.write_bytes(data.read_bytes()[:-9])
    text = Path(write_catalogue(lake)).read_text()
    for name in ("cut", "changed", "gone", "torn"):
        assert f"likeness verify {name}”" in text
        assert "Damaged" in (lake / name / "index.html").read_text()
    assert "people@1" in text


def test_a_catalogue_of_nothing_is_a_page(tmp_path):
    assert dataset_names(LocalStore(tmp_path / "none")) == []
    text = Path(write_catalogue(tmp_path / "lake")).read_text()
    assert "Nothing is published yet" in text
    (tmp_path / "lake" / "Not-a-dataset").mkdir()
    (tmp_path / "lake" / "empty").mkdir()
    assert dataset_names(LocalStore(tmp_path / "lake")) == []
    first = Path(write_catalogue(tmp_path / "lake")).read_bytes()
    assert Path(write_catalogue(tmp_path / "lake")).read_bytes() == first
