"""The paper's tables as data: what each of their figures is a measurement of, and what the paper found.

This module imports nothing heavy.
"""

from fastait.reproduction.fastat import TABLE as FASTAT
from fastait.reproduction.grids import CLEAN, WORST, Block, Line, Table, figures, models

_ALL = ("natural", "madry", "bilateral", "feature-scatter", "adv-interp")
_THREE = ("natural", "madry", "adv-interp")

_WHITE_BOX = (
    Line("Clean", attack=CLEAN),
    Line("FGSM", attack="fgsm"),
    Line("PGD20", attack="pgd20"),
    Line("PGD100", attack="pgd100"),
    Line("CW20", attack="cw20"),
    Line("CW100", attack="cw100"),
)
_WITH_WORST = (*_WHITE_BOX, Line("Worst", attack=WORST))

_BUDGETS = (8, 10, 12, 14, 16, 18, 20)
_ITERATIONS = (20, 50, 100, 200, 300, 500, 1000)


_TABLE1 = Table(
    "Table 1",
    "CIFAR10 under white-box attacks",
    (
        Block(
            *("", "", "Models"),
            models(_ALL),
            _WITH_WORST,
            figures("""
                95.6 37.0  0.0  0.0  0.0  0.0  0.0
                86.7 54.9 45.0 44.5 45.7 45.3 44.5
                91.2 70.7 57.5 55.2 56.2 53.8 53.8
                90.0 78.4 70.5 68.6 62.4 60.6 60.6
                90.3 78.0 73.5 73.0 69.7 68.7 68.7
            """),
        ),
    ),
)

_TABLE2 = Table(
    "Table 2",
    "larger budgets: networks trained with epsilon 8/255 under PGD20 and CW20 of 8/255 to 20/255",
    (
        Block(
            *("", "", "Models"),
            models(_THREE),
            tuple(
                Line(f"{loss.upper()} {budget}", attack=f"{loss}20", epsilon=budget)
                for loss in ("pgd", "cw")
                for budget in _BUDGETS
            ),
            figures("""
                 0.0  0.0  0.0  0.0  0.0  0.0  0.0   0.0  0.0  0.0  0.0  0.0  0.0  0.0
                45.0 34.9 27.0 20.8 16.8 13.1 10.1  45.7 35.6 27.6 21.4 16.9 12.9  9.9
                73.5 72.9 71.9 71.3 70.2 68.6 67.4  69.7 68.2 66.6 65.2 63.8 62.4 60.5
            """),
        ),
    ),
)

_TABLE3 = Table(
    "Table 3",
    "more iterations: PGD and CW of 20 to 1000 steps",
    (
        Block(
            *("", "", "Models"),
            models(_THREE),
            tuple(
                Line(f"{loss.upper()} {steps}", attack=f"{loss}{steps}")
                for loss in ("pgd", "cw")
                for steps in _ITERATIONS
            ),
            figures("""
                 0.0  0.0  0.0  0.0  0.0  0.0  0.0   0.0  0.0  0.0  0.0  0.0  0.0  0.0
                45.0 44.6 44.5 44.5 44.5 44.5 44.4  45.7 45.7 45.4 45.3 45.3 45.3 45.2
                73.5 73.0 73.0 73.0 72.9 72.8 72.8  69.7 69.0 68.7 68.4 68.3 68.3 68.3
            """),
        ),
    ),
)

_TABLE4 = Table(
    "Table 4",
    "CIFAR100 and SVHN under white-box attacks",
    (
        Block(
            *("a", "CIFAR100", "Models"),
            models(_ALL, "cifar100-"),
            _WITH_WORST,
            figures("""
                78.6  9.7  0.0  0.0  0.0  0.0  0.0
                59.9 28.5 22.6 22.2 23.2 23.1 22.2
                68.2 60.8 26.7 25.3    - 22.1 22.1
                73.9 61.0 47.2 46.2 34.6 30.6 30.6
                73.6 58.3 41.0 40.2 32.4 31.2 31.2
            """),
        ),
        Block(
            *("b", "SVHN", "Models"),
            models(_ALL, "svhn-"),
            _WITH_WORST,
            figures("""
                96.6 36.0  0.3  0.2  0.3  0.0  0.0
                93.9 68.4 47.9 46.0 48.7 47.5 46.0
                94.1 69.8 53.9 50.3    - 48.9 48.9
                96.2 83.5 62.9 52.0 61.3 50.8 50.8
                94.1 75.6 65.8 64.0 63.4 60.4 60.4
            """),
        ),
    ),
)

_TABLE5 = Table(
    "Table 5",
    "ablation of how images and how labels are moved",
    (
        Block(
            *("a", "images", "Models"),
            models(("image-org", "image-mixup", "image-cls", "adv-interp")),
            _WITH_WORST,
            figures("""
                95.7 62.4 11.3  2.3 16.7  8.7  2.3
                95.4 79.9 32.4 19.4 31.8 23.1 19.4
                90.3 71.2 60.0 57.7 56.3 54.1 54.1
                90.3 78.0 73.5 73.0 69.7 68.7 68.7
            """),
        ),
        Block(
            *("b", "labels", "Models"),
            models(("label-org", "label-mixup", "label-smooth", "adv-interp")),
            _WITH_WORST,
            figures("""
                91.6 57.3 38.1 36.5 39.3 38.0 36.5
                93.3 65.5 19.4 13.4 18.8 14.1 13.4
                91.1 77.0 68.4 66.2 62.9 61.3 61.3
                90.3 78.0 73.5 73.0 69.7 68.7 68.7
            """),
        ),
    ),
)

_TABLE6 = Table(
    "Table 6",
    "Adv-Interp under black-box attacks",
    (
        Block(
            *("a", "images made on another network", "Attack generation models"),
            (
                Line("Natural", system="adv-interp", surrogate="natural"),
                Line("Adv-Interp'", system="adv-interp", surrogate="adv-interp-second"),
            ),
            tuple(
                Line(f"{loss.upper()}{steps}", attack=f"transfer-{loss}{steps}")
                for loss, steps in (("pgd", 20), ("pgd", 100), ("cw", 20), ("cw", 100))
            ),
            figures("""
                89.3 89.1 89.4 89.2
                82.9 82.5 81.8 82.0
            """),
        ),
        Block(
            *("b", "without gradients", "Gradient-free attacks"),
            (Line("SPSA", attack="spsa"), Line("Local-Search", attack="local-search")),
            (Line("Adv-Interp", system="adv-interp"),),
            figures("""
                89.2
                90.1
            """),
        ),
    ),
    (
        "Adv-Interp' is Adv-Interp trained with the next seed. The paper gives no number of images, directions or "
        "rounds for (b). Local-Search changes few pixels freely, as published: its images need not lie in the ball.",
    ),
)

_TABLE7 = Table("Table 7", "what each method trains on, read off the code", ())

_TABLE8 = Table(
    "Table 8",
    "Mixup, its adversarial kin and UAT on CIFAR10",
    (
        Block(
            *("", "", "Attack methods"),
            (Line("Natural", attack=CLEAN), Line("FGSM", attack="fgsm"), Line("PGD20", attack="pgd20")),
            models(("mixup", "manifold-mixup", "iat-mixup", "iat-manifold-mixup", "uat", "adv-interp")),
            figures("""
                96.8 96.9 93.6 93.5 85.9 90.3
                67.4 61.6 66.2 64.8    - 78.0
                 0.7  1.7 50.1 44.8 62.2 73.5
            """),
            models_across=True,
        ),
    ),
    (
        "The row Natural is that of clean images. All methods are trained by the paper's own schedule, not by those of "
        "their publications. UAT is the variant with online targets; the paper's, whose variant it does not name, had "
        "20k additional images per class.",
    ),
)

_TABLE9 = Table(
    "Table 9",
    "adaptive attacks on CIFAR10: 10 restarts of 20 steps, an image counts if it withstands all",
    (
        Block(
            *("", "", "Attack methods"),
            (
                Line("Clean", attack=CLEAN),
                Line("PGD-min", attack="pgd-min"),
                Line("CW-min", attack="cw-min"),
                Line("Feature-min", attack="feature-min"),
            ),
            (*models(_THREE), Line("Adv-Interp*", system="adv-interp", noisy=True)),
            figures("""
                95.6 86.7 90.3 90.1
                 0.0 44.5 71.5 70.0
                 0.0 45.2 67.2 65.4
                 0.0 42.3 36.4 43.4
            """),
            models_across=True,
        ),
    ),
    (
        "Adv-Interp* is Adv-Interp with random signs of epsilon added to its input, drawn anew in every pass; each "
        "step of the attacks sees one draw, which flatters a random defence: eotN-... of fastait.eval "
        "attacks the expectation.",
    ),
)

_TABLE_A6 = Table(
    "Table of section A.6",
    "the label's budget epsilon_y",
    (
        Block(
            *("", "", "epsilon_y"),
            (
                Line("0", system="label-org"),
                *(Line(f"{value:g}", system=f"epsilon_y={value:g}") for value in (0.1, 0.2, 0.3, 0.4)),
                Line("0.5", system="adv-interp"),
                *(Line(f"{value:g}", system=f"epsilon_y={value:g}") for value in (0.6, 0.7)),
            ),
            _WHITE_BOX,
            figures("""
                91.6 57.3 38.1 36.5 39.3 38.0
                90.9 73.3 57.3 52.9 57.2 54.2
                90.5 74.9 61.6 58.5 63.4 61.5
                90.6 78.2 73.5 72.6 68.7 68.0
                90.8 77.8 73.7 73.0 67.7 66.6
                90.3 78.0 73.5 73.0 69.7 68.7
                90.5 74.9 61.6 58.4 63.5 61.5
                90.2 73.5 59.8 48.7 59.2 50.8
            """),
        ),
    ),
)

TABLES: dict[str, Table] = {
    "table1": _TABLE1,
    "table2": _TABLE2,
    "table3": _TABLE3,
    "table4": _TABLE4,
    "table5": _TABLE5,
    "table6": _TABLE6,
    "table7": _TABLE7,
    "table8": _TABLE8,
    "table9": _TABLE9,
    "tableA6": _TABLE_A6,
    "fastat": FASTAT,
}
