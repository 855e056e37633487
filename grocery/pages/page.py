"""Pages for people: whole HTML files that need nothing else.

The style, the charts and the pictures are inside a page, there is no script, and its content policy
forbids the browser to fetch anything. Equal values give equal bytes. The template of a page lies
beside the module that fills it; what pages have in common is in `templates`.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_COMMON = Path(__file__).with_name("templates")


def render(module: str, **values: Any) -> Markup:
    """Fill the template beside a module, given its file; every value is escaped."""
    file = Path(module).with_suffix(".html")
    return Markup(_environment(file.parent).get_template(file.name).render(values))


@cache
def _environment(folder: Path) -> Environment:
    made = Environment(
        loader=FileSystemLoader([folder, _COMMON]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["base64"] = lambda data: b64encode(data).decode()
    return made
