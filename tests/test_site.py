"""The check of the built documentation: what is broken is named, what is whole passes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
import _check

WHOLE = {
    "index.html": '<nav><a href="far.html">contents</a></nav><article><a href="start.html">begin</a></article>',
    "start.html": "<article>" + "".join(f'<p><img src="a.png"><a href="{a}">it</a>' for a in _check.ANSWERS.values())
    + '<a href="far.html#here">x</a></article><a href="search.html?q=a">outside of the text</a>',
    "far.html": '<article><h1 id="here">far</h1><a href="#here">up</a><a href="https://example.org">out</a></article>',
    "search.html": '<article><a href="mailto:a@example.org">write</a></article>',
    "a.png": "",
    **dict.fromkeys(_check.ANSWERS.values(), "<article>yes</article>"),
}  # fmt: skip


def site(folder, **changed):
    for name, text in (WHOLE | {key.replace("__", "."): text for key, text in changed.items()}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_a_whole_site_has_no_problems(tmp_path):
    assert _check.problems(site(tmp_path)) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<a href="gone.html">x</a>', "far.html links to gone.html, which is not there"),
        ('<a href="start.html#gone">x</a>', "no place 'gone'"),
        ('<img src="gone.png">', "far.html links to gone.png, which is not there"),
        ('<a href="../../elsewhere.html">x</a>', "which is not there"),
        ('<script src="https://example.org/a.js"></script>', "loads https://example.org/a.js from elsewhere"),
        ('<link href="//example.org/a.css">', "from elsewhere"),
    ],
)
def test_what_is_broken_is_named(tmp_path, text, said):
    (found,) = [p for p in _check.problems(site(tmp_path, far__html=f'<p id="here">{text}')) if "example" in p or
                "not there" in p or "no place" in p][:1]  # fmt: skip

    assert said in found


def test_answers_must_be_two_clicks_away_by_the_text_itself(tmp_path):
    nav = '<nav><a href="start.html">contents</a></nav><article>nothing</article>'
    found = _check.problems(site(tmp_path, index__html=nav))

    assert len(found) == len(_check.ANSWERS)
    assert all("two clicks" in one for one in found)


def test_a_large_site_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(_check, "MOST_BYTES", 10)

    assert "the site has" in _check.problems(site(tmp_path))[-1]
