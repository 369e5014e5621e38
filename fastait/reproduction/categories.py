"""Table 7, read off the methods' own code."""

import inspect

from fastait.methods import METHODS, Method, Term
from fastait.reproduction.layout import Grid, Sheet
from fastait.reproduction.tables import TABLES

MESSAGES = {
    "natural": ("none: any feature that helps will do", "most likely a network that is not robust"),
    "madry": ("robust features, since delta no longer tells y", "a robust network"),
    "adv-interp": ("robust features, since delta tells neither y nor y'", "a robust network"),
}
"""What the paper's table says of the methods that it has, in our words: the message and the result."""


def categories() -> Sheet:
    """The sheet of table 7: how each method moves images and labels, and what the paper says of it."""
    table = TABLES["table7"]
    lines = [
        [
            name,
            _parts(method, "image_part"),
            _parts(method, "label_part"),
            *MESSAGES.get(name, ("", "")),
            method.source,
        ]
        for name, method in METHODS.items()
    ]
    header = ["Methods", "Training sample: image", "Training sample: label", "Message", "Result", "Source"]
    records = [
        dict(zip(("method", "image", "label", "message", "result", "source"), line, strict=True)) for line in lines
    ]
    notes = [
        "Message and result are the paper's, in our words, where its table has the method. Its third row, training on "
        "x + delta with the label y' (Ilyas et al., 2019), makes a network that is not robust and is no method here.",
    ]
    return Sheet([f"{table.title}: {table.caption}."], [Grid("", header, lines)], notes, records)


def _parts(method: Method, part: str) -> str:
    """The terms' functions of one kind and what they do."""
    return " + ".join(_term(term, part) for term in method.terms)


def _term(term: Term, part: str) -> str:
    function = getattr(term, part)()
    weight = "" if term.weight == 1 else f"{term.weight:g} x "
    doc = (inspect.getdoc(function) or "").splitlines()
    return f"{weight}{function.__name__}: {doc[0] if doc else ''}".rstrip(": ").rstrip(".")
