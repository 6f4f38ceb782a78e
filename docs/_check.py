"""What must hold of the built site: `python docs/_check.py site`.

Every link and place within it exists, nothing is loaded from elsewhere, it is under 30 MB, and from the front page the
answers that newcomers look for are two clicks away by links of the text itself (the contents at the side have them all).
"""

from __future__ import annotations

import sys
from collections import deque
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

MOST_BYTES = 30_000_000
# what a newcomer asks, and where it is answered
ANSWERS = {
    "how to explain a scikit-learn pipeline": "howto/models.html",
    "how to explain a PyTorch network": "howto/networks.html",
    "how to explain an anomaly": "howto/anomalies.html",
    "whether a model is supported": "supported.html",
    "what a number means": "trust.html",
}
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """The places and links of a page.

    Attributes
    ----------
    ids : set of str
    links : list of str
        What is linked to or shown.
    loads : list of str
        What a browser fetches to show the page.
    read : list of str
        Links within the text.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.read: list[str] = []
        self._text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if self._text and tag not in _VOID:
            self._text.append(tag)
        elif tag == "article":
            self._text = [tag]
        self.ids |= {found[name] for name in ("id", "name") if name in found and (name == "id" or tag == "a")}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
            if self._text:
                self.read.append(found["href"])
        fetched = found.get("src") or (found.get("href") if tag == "link" else None) or found.get("poster")
        if fetched:
            self.links.append(fetched)
            self.loads.append(fetched)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._text:
            del self._text[len(self._text) - 1 - self._text[::-1].index(tag) :]


def problems(site: Path) -> list[str]:
    """One sentence for each thing that does not hold."""
    pages = {file.relative_to(site).as_posix(): Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    found, reach = [], {}
    for name, page in sorted(pages.items()):
        found += [f"{name} loads {link} from elsewhere" for link in page.loads if _outside(link)]
        found += [said for link in page.links if (said := _broken(site, name, link, pages))]
        reach[name] = {target for link in page.read if (target := _target(name, link)) in pages}
    clicks = _clicks("index.html", reach)
    for question, answer in ANSWERS.items():
        if clicks.get(answer, 9) > 2:
            found.append(f"{question}: {answer} is not two clicks from the front page")
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    if size >= MOST_BYTES:
        found.append(f"the site has {size / 1e6:.0f} MB, and may have {MOST_BYTES / 1e6:.0f}")
    return found


def _outside(link: str) -> bool:
    return link.startswith("//") or urlsplit(link).scheme in ("http", "https")


def _target(name: str, link: str) -> str:
    """The file that a link of a page means, within the site."""
    path = unquote(urlsplit(link).path)
    parts = [*name.split("/")[:-1], *path.split("/")] if path else name.split("/")
    kept: list[str] = []
    for part in parts:
        if part == ".." and kept and kept[-1] != "..":
            kept.pop()
        elif part not in (".", ""):
            kept.append(part)
    return "/".join(kept)


def _broken(site: Path, name: str, link: str, pages: dict[str, Page]) -> str | None:
    if _outside(link) or urlsplit(link).scheme in ("mailto", "data", "javascript"):
        return None
    target, place = _target(name, link), unquote(urldefrag(link)[1])
    if not (site / target).is_file():
        return f"{name} links to {link}, which is not there"
    if place and target in pages and place not in pages[target].ids:
        return f"{name} links to {link}, but {target} has no place {place!r}"
    return None


def _clicks(start: str, reach: dict[str, set[str]]) -> dict[str, int]:
    """How many links lead from a page to each other one, at least."""
    found, queue = {start: 0}, deque([start])
    while queue:
        here = queue.popleft()
        for there in reach.get(here, ()):
            if there not in found:
                found[there] = found[here] + 1
                queue.append(there)
    return found


if __name__ == "__main__":
    said = problems(Path(sys.argv[1]))
    print("\n".join(said) or "every link of the site leads somewhere")
    sys.exit(bool(said))
