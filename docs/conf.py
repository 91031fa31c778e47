"""Sphinx: the pages are Markdown, the API pages are made from the docstrings."""

import builtins
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

project = "esazure"
copyright = "the esazure authors"  # noqa: A001 - Sphinx wants this name
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
default_role = "code"  # docstrings use single backticks

html_theme = "furo"
html_title = "esazure"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]

copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Raises on entry", "raises_style")]
python_use_unqualified_type_names = True


def _leave_builtins_alone(_: Sphinx, doctree: Any) -> None:
    """Sphinx would link the builtin `type` to any attribute called `type`."""
    for reference in doctree.findall(pending_xref):
        if reference.get("reftarget") in vars(builtins):
            reference.attributes.pop("refspecific", None)


def _a_colon_is_a_colon(_app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Napoleon would take what is before the first colon of an attribute's docstring for its type."""
    if what in ("attribute", "property", "data"):
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", _leave_builtins_alone)
    app.connect("autodoc-process-docstring", _a_colon_is_a_colon, priority=400)
