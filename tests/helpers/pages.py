"""Reads a page as a browser does, but refuses what the HTML standard calls a parse error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import html5lib

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

LOADING = (
    "src",
    "href",
    "srcset",
    "data",
    "action",
    "poster",
    "background",
    "{http://www.w3.org/1999/xlink}href",
)
"""The attributes whose value may make a browser load something."""


def parse(text: str) -> Element:
    """Return a page's tree. Raises html5lib's ParseError if its HTML isn't valid."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    tree: Element = parser.parse(text)
    return tree


def words(element: Element) -> str:
    """Return all text within an element, with single spaces."""
    return " ".join(" ".join(element.itertext()).split())


def loaded(page: Element) -> list[str]:
    """Return every address that a browser would load for a page."""
    values = [element.get(name, "#") for element in page.iter() for name in LOADING]
    styles = [words(element) for element in page.iter("style")]
    styles += [element.get("style", "") for element in page.iter()]
    values += [
        address for style in styles for address in re.findall(r"url\(\s*['\"]?([^'\")]*)|@import", style)
    ]
    return [value for value in values if not value.startswith(("#", "data:"))]
