"""Laws of the house: no circle of imports, not even inside functions or for types alone; files and functions of a size that can be read."""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import backlight
from backlight.cli import app

ROOT = Path(backlight.__file__).parent
MOST_LINES, MOST_STATEMENTS = 400, 60
# a longer file says in its first line why it is one
REASON = re.compile(r"\(one (algorithm|class|layer|procedure|protocol|reader|table)\)")


def name_of(path):
    parts = ("backlight", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(tree):
    """All that a file imports: at its top, in its functions, and what only type checkers read."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a module is imported by its whole name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in FILES else node.module
        todo += ast.iter_child_nodes(node)


def circle_in(graph):
    """Some circle of a graph; None where there is none."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        path.append(name)
        found = next((circle for other in graph[name] if (circle := visit(other))), None)
        path.pop()
        done.add(name)
        return found

    return next((circle for name in graph if (circle := visit(name))), None)


def test_a_circle_is_seen():
    assert circle_in({"a": ["b"], "b": ["c"], "c": ["a"]}) == ["a", "b", "c", "a"]
    assert circle_in({"a": ["b", "c"], "b": ["c"], "c": []}) is None


def test_imports_are_seen_wherever_they_stand():
    """At the top, inside a function, for types alone, of a module by its room, and several names at once."""
    text = """
import backlight.errors
from backlight.tables import frame
from backlight.arguments import checked, shown
if TYPE_CHECKING:
    from backlight.models.open import open_model
def late():
    from backlight import hints
"""
    found = set(imported(ast.parse(text)))
    assert found == {
        "backlight.errors", "backlight.tables.frame", "backlight.arguments", "backlight.models.open", "backlight.hints"
    }  # fmt: skip
    with pytest.raises(AssertionError, match="by its whole name"):
        list(imported(ast.parse("from . import open")))


def test_imports_form_no_circle():
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
    graph = {name: [to for to in imported(tree) if to in FILES and to != name] for name, tree in trees.items()}
    circle = circle_in(graph)
    assert circle is None, " → ".join(circle or ())


@pytest.mark.parametrize("name", FILES)
def test_a_file_can_be_read_at_once(name):
    text = FILES[name].read_text(encoding="utf-8")
    first, lines = text.partition("\n")[0], text.count("\n")
    assert lines <= MOST_LINES or REASON.search(first), f"{lines} lines, and no reason in the first one"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            size = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert size <= MOST_STATEMENTS, f"{node.name} has {size} lines"


def test_a_table_passes_few_rooms_on_its_way_to_the_report(tmp_path):
    """The rooms whose code runs between ``backlight anomalies`` and the page, modules that are imported there included."""
    rng = np.random.default_rng(0)
    table = tmp_path / "table.csv"
    np.savetxt(table, rng.normal(size=(80, 4)), delimiter=",", header="a,b,c,d", comments="")
    files = set()

    def seen(frame, event, arg):
        if event == "call":
            files.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        found = CliRunner().invoke(app, ["anomalies", str(table), "--report", str(tmp_path / "r.html"), "--no-check"])
    finally:
        sys.setprofile(before)
    assert found.exit_code == 0, found.output
    assert (tmp_path / "r.html").exists()
    paths = [Path(file) for file in files]
    rooms = {path.relative_to(ROOT).parts[0] for path in paths if path.is_relative_to(ROOT)}
    assert {"cli", "tables", "anomaly", "findings", "report"} <= rooms
    assert len(rooms) <= 10, rooms
