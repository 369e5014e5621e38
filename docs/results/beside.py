"""``fastait`` with sums of N-FGSM and adversarial interpolation as methods: ``python docs/results/beside.py sweep``.

They are no methods of the package, since they do not pay (docs/RESULTS.md); docs/extending.md says how to add one.
"""

import sys

from fastait.__main__ import main
from fastait.methods import METHODS, Method, Term


def beside(share: float) -> Method:
    """N-FGSM's loss and, with this share, adversarial interpolation's."""
    terms = (
        Term("n_fgsm", "classes", 1 - share),
        Term("adversarial_interpolation", "adversarial_interpolation", share),
    )
    return Method(terms, "docs/RESULTS.md")


METHODS |= {
    "n-fgsm+0.5": beside(0.5),
    "n-fgsm+0.2": beside(0.2),
    "n-fgsm-labels": Method((Term("n_fgsm", "adversarial_interpolation"),), "docs/RESULTS.md"),
}

if __name__ == "__main__":
    sys.exit(main())
