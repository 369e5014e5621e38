"""Names of classes, compared by what they say."""

import os
import unicodedata


def spelling(name: str) -> str:
    """The one spelling of a class's name: some file systems (macOS) take letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


def of_folder(name: str) -> str:
    """What the class is called whose images are in a folder called ``name``, whatever the locale calls that."""
    return spelling(os.fsencode(name).decode("utf-8", "surrogateescape"))
