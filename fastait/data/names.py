"""Names that come with a data set: compared by what they say, shown without what they could do to a terminal."""

import os
import unicodedata


def spelling(name: str) -> str:
    """The one spelling of a class's name: some file systems (macOS) take letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


def of_folder(name: str) -> str:
    """What the class is called whose images are in a folder called ``name``, whatever the locale calls that."""
    return spelling(os.fsencode(name).decode("utf-8", "surrogateescape"))


def shown(text: object) -> str:
    """``text`` on one line, with control characters, and bytes that are no text, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
