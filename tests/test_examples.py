"""Each example runs, and says what it is there to show."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example, capsys, tmp_path):
    if "optuna" in example.stem:
        pytest.importorskip("optuna", reason="optuna is not installed")
    assert 20 <= len(example.read_text().splitlines()) <= 60
    runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr().out
    if example.stem.endswith("_in_your_loop"):
        natural, defended = (float(share) for share in re.findall(r"under PGD-\d+ ([\d.]+) %", said))
        assert defended > natural + 10
    elif example.stem == "finetune_a_folder":
        drawn, tuned = (float(share) for share in re.findall(r"under PGD-20 ([\d.]+) %", said))
        assert tuned > drawn + 10
        assert "['eight', 'nine', 'seven'] {'clean': 9" in said
    elif example.stem == "search_with_optuna":
        assert re.search(r"^best of 3: .* \d+\.\d % under PGD-10 on images held out$", said, re.MULTILINE)
    elif example.stem == "evaluate_your_model":
        assert re.search(r"^clean +[89]\d\.\d %$", said, re.MULTILINE)
        assert "PGD against AutoAttack" in said
    else:
        assert re.search(r"'clean': (9\d|100)\.\d+, 'pgd100': [789]\d", said)
    assert list(tmp_path.iterdir()) == []
