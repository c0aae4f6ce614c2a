"""The site: sphinx-build -W docs site"""

import re
from importlib.metadata import version as installed_version

project = "fastrnn"
author = "fastrnn maintainers"
version = release = installed_version(project)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["arguments.css"]
default_role = "code"  # what docstrings have in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "inherited-members": False, "show-inheritance": True}

_ARGUMENTS = re.compile(r"^([a-z]\w*(?:, \w+)*): (?=\S)")
_BARS = re.compile(r"(`[^`]*`)|\|")  # |x| would name a substitution


def _as_fields(app, what, name, obj, options, lines):
    """The lines `argument: what it is` of a docstring, with their continuation, as a list of fields."""
    result, inside = [], False
    for line in lines:
        line = _BARS.sub(lambda bar: bar[1] or r"\|", line)
        match = _ARGUMENTS.match(line)
        if match:
            if not inside and result and result[-1]:
                result.append("")
            line = f":{match[1]}: {line[match.end() :]}"
            inside = True
        elif inside and line and not line.startswith(" "):
            if result[-1]:
                result.append("")
            inside = False
        result.append(line)
    lines[:] = result


def setup(app):
    app.connect("autodoc-process-docstring", _as_fields)
