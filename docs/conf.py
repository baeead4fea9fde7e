"""Sphinx configuration; build with ``sphinx-build -W docs build/docs``."""

import importlib.metadata
import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # the API reference imports the callbacks

project = "ww_callbacks"
author = "the ww_callbacks authors"
version = release = importlib.metadata.version("ww_callbacks")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["colon_fence", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_attr_annotations = True
exclude_patterns = ["*.py"]

html_theme = "furo"
html_title = "ww_callbacks"
html_copy_source = False
