"""The directive ``{flags} module:Dataclass``: every flag of a command with its default and its help, from the code."""

import dataclasses
import importlib
import math
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer


class Flags(Directive):
    """A definition list, in the order of the dataclass's fields."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The list."""
        module, _, name = self.arguments[0].partition(":")
        cls = getattr(importlib.import_module(module), name)
        texts: dict[str, str] = {}
        for base in reversed(cls.__mro__[:-1]):
            documented = ModuleAnalyzer.for_module(base.__module__).find_attr_docs()
            texts.update(
                {field: " ".join(lines) for (owner, field), lines in documented.items() if owner == base.__name__}
            )
        found = nodes.definition_list()
        for field in dataclasses.fields(cls):
            flag = "--" + field.name.strip("_").replace("_", "-")
            text = texts[field.name].strip()
            if "[default:" not in text and (default := _written(field.default)):
                text += f" [default: {default}]"
            term = nodes.term("", "", nodes.literal("", flag if field.kw_only else field.name.upper()))
            found += nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph(text, text)))
        return [found]


def _written(default: Any) -> str:
    """As people write it; nothing where there is none."""
    if default is None or default is dataclasses.MISSING or default == ():
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return ", ".join(map(_written, default))
    if isinstance(default, float):
        in_255ths = default * 255
        whole = default and math.isclose(in_255ths, round(in_255ths)) and in_255ths < 64
        return f"{round(in_255ths)}/255" if whole else f"{default:g}"
    return str(default)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("flags", Flags)
    return {"parallel_read_safe": True}
