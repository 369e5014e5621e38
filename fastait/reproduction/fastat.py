"""The FastAT benchmark's comparison of methods (Pan & Yao, 2026, arXiv 2604.22853), as data."""

from fastait.reproduction.grids import CLEAN, Block, Line, Table, figures, models
from fastait.reproduction.systems import FAST

TABLE = Table(
    "FastAT",
    "methods of one attack step beside PGD training, by the FastAT benchmark's recipe, under AutoAttack",
    (
        Block(
            *("a", "weights of the last epoch", "Models"),
            models(FAST, "fastat-"),
            (Line("Clean", attack=CLEAN), Line("PGD20", attack="pgd20"), Line("AutoAttack", attack="autoattack")),
            figures("""
                - - -
                - - -
                - - -
                - - -
                - - 44.33
                - - -
            """),
        ),
        Block(
            *("b", "weights of the best epoch, averaged or not", "Models"),
            models(FAST, "fastat-", "-best"),
            (Line("Clean", attack=CLEAN), Line("PGD20", attack="pgd20"), Line("AutoAttack", attack="autoattack")),
            figures("""
                - - 43.09
                - - 47.77
                - - 47.99
                - - 50.10
                - - 50.49
                - - -
            """),
        ),
    ),
    (
        "The benchmark's figures are means of three seeds. Its methods' best weights are those of the best PGD-10 "
        "accuracy on 1,000 images held out, the network's or averaged ones; its PGD without averaging is measured "
        "after the last epoch. Its single steps attack in train mode, those of n-fgsm, fgsm-rs and nu-at on smoothed "
        "labels; attacks here are in eval mode, as its PGD, and on classes. Its averages begin with the full decay, "
        "its rise of NuAT's lambda ends with the last epoch, and its point near the image of GradAlign's is clipped to "
        "[0, 1].",
    ),
)
