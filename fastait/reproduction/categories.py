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
    """What the terms' functions of one kind do."""
    return "; and ".join(_term(term, part) for term in method.terms)


def _term(term: Term, part: str) -> str:
    function = getattr(term, part)()
    said = f"{function.__name__}: {(inspect.getdoc(function) or '').splitlines()[0].rstrip('.')}"
    if part == "label_part":
        return said if term.weight == 1 else f"{term.weight:g} times the loss of {said}"
    if term.mixing is not None:
        where = "at the input" if term.mixing.layers == 1 else f"at one of {term.mixing.layers} layers"
        said += f", mixed with the partner {where}"
    return f"{said}, of images without labels" if term.unlabeled else said
