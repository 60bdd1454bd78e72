"""Self-contained HTML pages from jinja2 templates, with pictures as data URIs."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pipeline.report.palette import DARK, LIGHT, series
from pipeline.report.plots import inline

_TEMPLATES = Path(__file__).parent / "templates"


def percent(value: float | None) -> str:
    """A fraction in percent with one decimal; a dash for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def render(template: Path, **values: object) -> str:
    """Fill a template that extends base.html; all values are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader([template.parent, _TEMPLATES])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "jpeg": jpeg_uri, "inline": lambda svg: Markup(inline(svg))}
    environment.globals |= {"light": LIGHT, "dark": DARK, "series": series}
    return environment.get_template(template.name).render(values)


def jpeg_uri(picture: Image.Image, box: tuple[int, int] | None = None) -> str:
    """A picture as the source of an `<img>`, shrunk to fit into `box` (width, height)."""
    if box:
        picture = picture.copy()
        picture.thumbnail(box)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=82)
    return _uri("jpeg", stream)


def animation_uri(pictures: Sequence[Image.Image], milliseconds: int = 120) -> str:
    """A looping animation (WebP) of pictures as the source of an `<img>`; all take the size of the first."""
    stream = io.BytesIO()
    size = pictures[0].size
    following = [picture if picture.size == size else picture.resize(size) for picture in pictures[1:]]
    pictures[0].save(stream, "WEBP", save_all=True, append_images=following, duration=milliseconds, loop=0, quality=60)
    return _uri("webp", stream)


def _uri(kind: str, stream: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
