"""A page as a test reads it."""

from html.parser import HTMLParser
from pathlib import Path

from fastait.report.page import make

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """The elements and the text of a page; elements must be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.parts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["text"]):
            self.parts.append(data)


def page(*runs, evals=(), **options):
    return Page(make([Path(run) for run in runs], [Path(one) for one in evals], figures=False, **options))
