"""Sphinx settings of the book's site.

The site is built by `serlib site` in a folder of its own, from notebooks that were executed
before: nothing is executed here, nothing is fetched, and every warning is an error.
"""

import os

from docutils import nodes

project = "Speech emotion recognition, rerun"
author = "the authors of serlib"
copyright = "2026, the authors of serlib"
language = "en"

extensions = [
    "myst_nb",  # reads notebooks and MyST Markdown; brings myst_parser
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_togglebutton",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_*.md"]  # made at build time, and included by pages
numfig = True

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # widgets would load scripts from a content delivery network

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

html_theme = "sphinx_book_theme"
html_title = project
html_logo = "_static/logo.svg"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search field of the side bar is enough
    "use_download_button": False,
    "extra_footer": (
        "<p>Code: MIT license. Prose and figures: "
        '<a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>.</p>'
    ),
}

# Where the repository is published; `publish.build` sets it, and without it there are no buttons.
if repository := os.environ.get("SERLIB_REPOSITORY"):
    html_theme_options |= {
        "repository_url": repository,
        "repository_branch": os.environ.get("SERLIB_BRANCH", "main"),
        "path_to_docs": "book",
        "use_repository_button": True,
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        },
    }

# One file with all of TeX and SVG output: MathJax 4 would fetch its fonts from a network.
mathjax_path = "mathjax/tex-svg-full.js"


def _plain_citations(app, page, template, context, doctree) -> None:
    """Take from the bibliography two ARIA roles, one of which is withdrawn, that it does not keep."""
    body = context.get("body", "")
    for role in (' role="list" class="citation-list"', ' role="doc-biblioentry"'):
        body = body.replace(role, role.split('"', 2)[2])
    context["body"] = body


def _fold_answers(app, doctree) -> None:
    """Fold what a solution or its check says with its code, whatever else the cell is tagged."""
    for cell in doctree.findall(nodes.container):
        for tag, name in {"solution": "solution in code", "check": "check"}.items():
            if f"tag_{tag}" in cell["classes"]:
                cell["hide_mode"] = "all"
                cell["prompt_show"], cell["prompt_hide"] = f"Show the {name}", f"Hide the {name}"


def _scroll_pictures(app, doctree) -> None:
    """Let the theme's script make what holds a picture focusable where it scrolls."""
    pictures = (p.parent for p in doctree.findall(nodes.image))
    for box in {*doctree.findall(nodes.figure), *pictures}:
        box["classes"].append("pst-scrollable-table-container")


def setup(app) -> None:
    """Sphinx calls this for settings that are functions."""
    app.connect("doctree-read", _fold_answers)
    app.connect("doctree-read", _scroll_pictures)
    app.connect("html-page-context", _plain_citations)
