"""How Sphinx makes the documentation: `make docs`."""

from importlib.metadata import version as installed_version

project = "sage-deploy"
author = "the sage-deploy developers"
version = release = installed_version("sage-deploy")

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True

# So that a page can link to a section of another: semantics/deadlines.md#inline.
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"sage-deploy {release}"
html_copy_source = False
html_show_sourcelink = False
