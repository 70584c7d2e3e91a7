"""Makes the Jinja environment that renders every HTML page: escaping, filters and the style sheet.

Logs are hostile text. Jinja escapes every value; the filters bound its length and spell out its control and bidi
characters.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from drift_data.chats.safe_text import escape_invisible


def make_environment(characters: int, package: str) -> Environment:
    """Return the environment that renders a page.

    Args:
        characters: how many characters of a message the filter `said` shows.
        package: the dotted name of the package that holds the page's template.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("drift_data.html", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "count": lambda value: "–" if value is None else f"{value:,}",
        "percent": lambda value: (
            "–" if value is None else f"{100 * value:.{2 if 0 < value < 0.01 else 1}f} %"
        ),
        "number": lambda value: "–" if value is None else f"{value:.4g}",
        "score": lambda value: "–" if value is None else f"{value:.3f}",
        "width": lambda value: f"{100 * min(1.0, max(0.0, value or 0.0)):.1f}%",
        "short": lambda value: "(not known)" if value is None else escape_invisible(str(value), 60),
        "said": lambda value: escape_invisible(str(value), characters, keep="\n\t"),
        "json": lambda value: escape_invisible(json.dumps(value, ensure_ascii=False, sort_keys=True), 2_000),
    }
    environment.filters.update(filters)
    environment.globals["style"] = _read_style_sheet(environment)
    return environment


def _read_style_sheet(environment: Environment) -> Markup:
    """Return the style sheet, which is ours and stands inside <style>, where nothing is escaped."""
    assert environment.loader is not None
    sheets = (environment.loader.get_source(environment, name)[0] for name in ("colours.css", "page.css"))
    return Markup("".join(sheets))
