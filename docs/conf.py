"""Sphinx configuration."""

from unix_cxr import __version__

project = "unix_cxr"
author = "The unix_cxr authors"
copyright = "2026, The unix_cxr authors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]
exclude_patterns = ["_build"]
