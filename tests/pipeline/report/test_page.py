import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pipeline.report.page import animation_uri, jpeg_uri, percent, render
from pipeline.report.palette import DARK, LIGHT

HOSTILE = "\"'><script>alert(1)</script>&<img src=http://127.0.0.1/x>{{ 1 }}"
VOID = ("img", "meta", "br")


class Page(HTMLParser):
    """Tags with attributes and the text of a page; fails on unbalanced tags and external resources."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []
        sources = [attributes.get("src") or attributes.get("href") for _, attributes in self.tags]
        assert all(source.startswith("data:image/") for source in sources if source)
        for external in ("url(", "@import", "<link", "<script"):
            assert external not in html

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [result for name, result in self.tags if name == tag and attributes.items() <= result.items()]


def image_of(uri: str | None) -> Image.Image:
    """The picture in a data URI."""
    return Image.open(io.BytesIO(base64.b64decode((uri or "").partition("base64,")[2])))


def test_a_page_has_light_and_dark_colors_and_escapes_its_values(tmp_path: Path) -> None:
    template = tmp_path / "some.html"
    template.write_text(
        '{% extends "base.html" %}{% from "parts.html" import bars, cards, dot, figure %}{% block body %}'
        "{{ cards([(1, text)]) }}{{ figure(uri, text, 'red') }}{{ dot('blue', text) }}{{ bars([(text, 3)], 4) }}"
        "{{ half | percent }}{% endblock %}"
    )
    uri = jpeg_uri(Image.new("RGB", (8, 8), "red"))
    html = render(template, title=HOSTILE, subtitle=HOSTILE, text=HOSTILE, uri=uri, half=0.5)
    page = Page(html)
    assert len(page.all("img")) == 1
    assert page.all("figure", style="--edge: var(--red)")
    assert page.text.count(HOSTILE) == 7
    assert "width: 75.0%" in html
    assert "50.0" in page.text
    assert LIGHT["ink"] in html
    assert DARK["ink"] in html.partition("prefers-color-scheme: dark")[2]


def test_a_missing_value_is_an_error(tmp_path: Path) -> None:
    from jinja2 import UndefinedError

    (tmp_path / "some.html").write_text('{% extends "base.html" %}')
    with pytest.raises(UndefinedError, match="subtitle"):
        render(tmp_path / "some.html", title="title")


def test_pictures_and_animations_can_be_decoded() -> None:
    pictures = [Image.new("RGB", (64, 32), color) for color in ("red", "green", "blue")]
    assert image_of(jpeg_uri(pictures[0], (16, 16))).size == (16, 8)
    assert image_of(jpeg_uri(pictures[0], (160, 160))).size == (64, 32)
    odd = Image.new("RGB", (48, 40))
    assert getattr(image_of(animation_uri([*pictures, odd])), "n_frames", 1) == 4


def test_percent() -> None:
    assert [percent(value) for value in (0.1234, None, float("nan"))] == ["12.3", "-", "-"]
