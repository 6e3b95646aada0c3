"""The jinja2 templates of documents; delimiters that neither LaTeX nor HTML uses."""

from __future__ import annotations

import jinja2

from csbench import resources


def template(name: str) -> jinja2.Template:
    """A template of reports/templates; what goes into HTML is escaped on the way."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.folder("templates")),
        autoescape=name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
