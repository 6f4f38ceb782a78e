"""The documentation: `sphinx-build -W docs site`; opens offline, executes the course, needs no network."""

import re
import sys
from pathlib import Path
from typing import Any

import latex2mathml.converter
from docutils import nodes

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from _generate import house, supported

from backlight._version import __version__

project = "backlight"
author = "The backlight engineers"
release = __version__
copyright = author  # noqa: A001 - Sphinx's name

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = [
    "_generate.py",
    "_supported_words.md",
    "gallery/*.ipynb",
    "gallery/*.py",
    "gallery/*.zip",
    "gallery/*.json",
    "**/sg_execution_times.rst",
    "sg_execution_times.rst",
    "gallery_source/*",
    "**/README.rst",
    "jupyter_execute",
]
suppress_warnings = ["config.cache", "myst-nb.lexer"]

# the course is executed when the pages are built; an error in a cell fails the build
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

sphinx_gallery_conf = {
    "examples_dirs": "gallery_source",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "show_memory": False,
    "plot_gallery": True,
    "capture_repr": ("_repr_html_",),
    "min_reported_time": 1000,
    "download_all_examples": False,
}

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = "backlight"
html_copy_source = False
pygments_dark_style = "github-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# mathematics is written as MathML, which browsers set without a script or a network
html_math_renderer = "mathml"


def stars(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Shapes such as (n, *features) hold a star that is no emphasis."""
    lines[:] = [re.sub(r"(?<![*\\\w`])\*(?=[a-z]+[),` ])", r"\\*", line) for line in lines]


def formula(writer: Any, node: Any) -> None:
    """An inline or displayed formula as MathML."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    writer.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Write the generated pages before the sources are read."""
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    app.connect("autodoc-process-docstring", stars)
    house(HERE / "_static" / "house.svg")
    supported(HERE / "supported.md")
