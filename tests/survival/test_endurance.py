"""Some steps and evaluations, looked at on the way; and that whatever grows is seen."""

from dataclasses import replace

import pytest
from endurance import FEW_EVALUATIONS, FEW_STEPS, Look, growth, main

STANDING = Look(seconds=0.01, memory=10**9, files=9, threads=4, shared_memory=1, temporary_files=2)


def test_nothing_grows(tmp_path):
    found = main(True, tmp_path)
    assert found["failures"] == []
    assert found["counts"] == {
        "steps by the resident loader": FEW_STEPS,
        "steps by the torch loader": FEW_STEPS,
        "evaluations": FEW_EVALUATIONS,
    }


def test_a_warm_up_and_noise_are_none():
    looks = [replace(STANDING, memory=10**9 - 10**8 // (1 + i), seconds=0.01 + 0.002 * (i % 2)) for i in range(40)]
    assert growth(looks) == []


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        (lambda i: {"memory": 10**9 + 3 * 10**6 * i}, "memory grew"),
        (lambda i: {"seconds": 0.01 * 1.06**i}, "seconds grew"),
        (lambda i: {"files": 9 + i // 10}, "files grew from"),
        (lambda i: {"threads": 4 + i // 10}, "threads grew"),
        (lambda i: {"shared_memory": 1 + i // 10}, "shared memory grew"),
        (lambda i: {"temporary_files": 2 + i}, "temporary files grew"),
    ],
)
def test_what_grows_is_seen(grown, said):
    (line,) = growth([replace(STANDING, **grown(i)) for i in range(40)])
    assert said in line


def test_a_leak_of_the_work_itself_is_seen(tmp_path, monkeypatch):
    """Of a file that each evaluation leaves open."""
    import endurance

    left = []
    evaluate = endurance.evaluate_robustness
    monkeypatch.setattr(endurance, "LOADERS", {})
    monkeypatch.setattr(
        endurance,
        "evaluate_robustness",
        lambda *args, **options: left.append(open("/dev/null")) or evaluate(*args, **options),  # noqa: SIM115
    )
    try:
        (failure,) = main(True, tmp_path)["failures"]
    finally:
        for file in left:
            file.close()
    assert failure.startswith("evaluations: files grew")
