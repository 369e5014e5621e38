"""The manual: ``sphinx-build -W -n --keep-going docs OUT``. Nothing in it is fetched when it is read."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "kernels"), str(HERE)]

from fastait import __version__  # noqa: E402

project = "fastait"
copyright = "fastait's authors"
release = __version__
extensions = ["flags", "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

napoleon_use_rtype = False
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
nitpick_ignore_regex = [
    # Other projects' pages are not linked to, since the manual is read offline too.
    ("py:.*", r"(torch|nn|os|pathlib|collections|typing)\..*|Tensor|Generator|Module|Path"),
    # Named as users meet them, documented in words.
    ("py:.*", r"fastait\..*|InputError|RunError|Interrupted|OutOfMemory|InputError, RunError, Interrupted"),
]

html_theme = "furo"
html_title = f"fastait {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sphinx = False
html_copy_source = False
templates_path: list[str] = []
