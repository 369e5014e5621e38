"""The command: what it makes, what it does not make twice, how it ends early."""

import dataclasses
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_folder

from fastait.checkpoints.folder import RunFolder
from fastait.data import load_dataset
from fastait.evaluation.journal import FileJournal, Recorded
from fastait.reproduce import main
from fastait.reproduction import measure, systems
from fastait.reproduction.measured import Measured
from fastait.reproduction.points import Point
from fastait.reproduction.standing import Standing
from fastait.reproduction.worker import Crew
from fastait.runtime.errors import InputError
from fastait.training.step import Totals

TABLE = ["table2", "--device", "cpu"]


pytestmark = pytest.mark.usefixtures("tiny")


def refused(capsys, *argv, code=2):
    assert main([str(a) for a in argv]) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith("fastait reproduce: error: ")
    return line


def test_a_table_is_made_once(work, capsys):
    begun, measured = work
    assert main(TABLE) == 0
    shown = capsys.readouterr().out
    assert "not comparable with the paper's figures" in shown
    assert "of the last epoch" in shown
    assert "AutoAttack" in shown
    assert "UAT" not in shown
    files = {name: Path("reproduction/small", f"table2.{name}").read_text() for name in ("md", "csv")}
    assert "(paper 72.9, " in files["md"]
    assert len(files["csv"].splitlines()) == 1 + 3 * 14
    assert begun == ["natural", "madry", "adv-interp"]
    assert len(measured) == len(set(measured)) == 3 * 7 * 3  # clean, PGD and CW of each network and budget
    assert all(f"'step_size': {systems.SCALES['small'].step_size!r}" in unit for unit in measured)
    assert systems.SCALES["small"].step_size == pytest.approx(6 / 255)
    assert main(TABLE) == 0
    assert len(begun) == 3
    assert len(measured) == 3 * 7 * 3
    assert {name: Path("reproduction/small", f"table2.{name}").read_text() for name in files} == files
    assert main(["table6", "--device", "cpu"]) == 0  # shares a network with it, and trains another
    assert begun[3:] == ["adv-interp"]
    assert "spsa-4x1 and local-search-1" in Path("reproduction/small/table6.md").read_text()
    line = refused(capsys, *TABLE, "--amp")
    assert "digits-natural was trained with amp False (now True); choose another --out" in line
    assert refused(capsys, *TABLE, "--amp", "--dry-run") == line
    assert len(begun) == 4


def test_an_interrupted_measurement_goes_on(work, capsys, monkeypatch):
    _, measured = work
    put = FileJournal.put

    def interrupt(self, *unit):
        put(self, *unit)
        if len(measured) == 10:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(FileJournal, "put", interrupt)
        line = refused(capsys, *TABLE, code=130)
    assert "what is done is kept, go on with the same command and --out reproduction" in line
    assert not Path("reproduction/small/table2.md").exists()
    assert main(TABLE) == 0
    assert len(measured) == len(set(measured)) == 3 * 7 * 3


def test_an_interrupted_training_goes_on(work, capsys, monkeypatch):
    begun, _ = work
    steps = []
    add = Totals.add

    def interrupt(self, *args):
        add(self, *args)
        steps.append(1)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Totals, "add", interrupt)
        refused(capsys, *TABLE, code=143)
    assert begun == ["natural"]
    assert main(TABLE) == 0
    assert begun == ["natural", "madry", "adv-interp"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no table is named; fastait reproduce --list says what there is"),
        (["tabel5"], "Did you mean 'table5'?"),
        (["table1", "--scale", "smal"], "Did you mean 'small'?"),
        (["table1", "--device", "gpu"], "'gpu' is not auto, cpu, cuda or cuda:N"),
        (["table8", "--unlabeled", "nowhere", "--device", "cpu"], "--unlabeled nowhere: no such folder"),
    ],
)
def test_refusals(capsys, argv, message):
    assert message in refused(capsys, *argv)
    assert not Path("reproduction").exists()


def test_what_cannot_be_made_is_said_before_it_is_begun(work, capsys, monkeypatch, tmp_path):
    few = write_folder(tmp_path / "few", {"a": 3}) / "train"
    for argv, message in (
        (["figure4"], "figures need matplotlib"),
        (["table8", "--unlabeled", few], "holds 3 images, a batch 64"),
        (["table8", "--unlabeled", few, "--dry-run"], "holds 3 images, a batch 64"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "matplotlib.figure", None)
            assert message in refused(capsys, *argv, "--device", "cpu")
    Path("file").write_text("")
    assert "--out: file/small cannot be made: Not a directory" in refused(capsys, "table7", "--out", "file")
    assert work == ([], [])


def test_a_run_on_other_images_without_labels_is_refused(tmp_path):
    """Or the table would say that UAT saw images which it did not see."""
    named = [write_folder(tmp_path / name, {"a": 64}) / "train" for name in ("one", "two")]

    def check(out, unlabeled, begin=False):
        choices = systems.Choices(systems.SCALES["small"], tmp_path / out, unlabeled=unlabeled, device="cpu")
        if begin:
            with RunFolder.new(choices.run("uat")) as folder:
                folder.begin(choices.config("uat"))
        measure.check_system("uat", choices)

    check("a", named[0], begin=True)
    check("b", None, begin=True)
    for out, unlabeled in (("a", named[1]), ("a", None), ("b", named[0])):
        with pytest.raises(InputError, match=r"was trained with unlabeled .*choose another --out"):
            check(out, unlabeled)
    (tmp_path / "b").rename(tmp_path / "c")
    check("c", None)


def test_images_without_labels_that_have_moved(tmp_path, monkeypatch):
    """A run that has come to a checkpoint is taken over with the same ones elsewhere, and goes on with those."""
    for name in ("one", "two"):
        write_folder(tmp_path / name, {"a": 64}, size=(10, 12) if name == "one" else (12, 10))
    choices = systems.Choices(systems.SCALES["small"], tmp_path / "a", unlabeled=tmp_path / "one", device="cpu")
    config = choices.config("uat")
    _, checksum, _ = measure.load_unlabeled(choices.unlabeled, config.image_size)
    data = load_dataset("digits", image_size=config.image_size).checksum
    with RunFolder.new(choices.run("uat")) as folder:
        folder.begin(config)
        folder.save_checkpoint({"data": {"checksum": measure.checksum_of_all(data, checksum)}})
    (tmp_path / "one").rename(tmp_path / "moved")
    moved = dataclasses.replace(choices, unlabeled=tmp_path / "moved")
    measure.check_system("uat", moved)
    with pytest.raises(InputError, match=r"was trained with unlabeled .*choose another --out"):
        measure.check_system("uat", dataclasses.replace(choices, unlabeled=tmp_path / "two"))
    given = {}
    monkeypatch.setattr(measure, "resume_training", lambda path, **options: given.update(options))
    monkeypatch.setattr(measure.attempts, "publish", lambda *paths: None)
    crew = Crew(moved, measure.Report(False))
    with crew.claims.take("uat") as claim:
        crew.benches[0].train("uat", claim)
    assert given["unlabeled"] == tmp_path / "moved"


def test_outcomes_are_not_taken_from_another_measurement(monkeypatch, tmp_path):
    """Of other weights, on images of another network, with noise; wherever it was made."""
    weights = {"adv-interp": "w", "natural": "s"}
    monkeypatch.setattr(Standing, "checksum", lambda self, system: weights[system])
    monkeypatch.setattr(Standing, "trained", lambda self, system: True)
    choices = systems.Choices(systems.SCALES["small"], tmp_path, device="cpu")
    plain = Point("adv-interp", 0.1, None, False, False)
    others = [
        dataclasses.replace(plain, **change) for change in ({"surrogate": "natural"}, {"noisy": True}, {"epsilon": 0.2})
    ]
    journal = FileJournal(measure.journal_folder(choices), "a")
    about = {**Standing(choices).subject(plain), "n": 8, "images": "i", "device": "another", "torch": "2"}
    setting = {"epsilon": 0.1, "step_size": choices.step_size, "seed": 0}
    journal.of(**about).put(setting, range(8), {"clean": [1] * 8, "pgd20": [1, 0, -1, 1, 0, 0, 0, 0]})
    recorded = Recorded(measure.journal_folder(choices))
    recorded.read()
    standing = Standing(choices, recorded)
    assert standing.complete(plain, ["pgd20"])
    assert standing.measured(plain, ["pgd20"])["pgd20"] == Measured(2, 8)
    assert standing.measured_on([plain]) == [("another", "2")]
    assert not standing.complete(plain, ["cw20"])
    assert not any(standing.complete(point, []) for point in others)
    weights["adv-interp"] = "other weights"
    assert not standing.complete(plain, [])


def test_list(capsys):
    assert main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [
        *(f"table{i}" for i in range(1, 10)),
        "tableA6",
        "fastat",
        "figure2",
        "figure3",
        "figure4",
        "epsilons",
    ]


def test_table_7_trains_nothing(work, capsys):
    assert main(["table7"]) == 0
    assert work == ([], [])
    assert "down the distance to the partner's features" in Path("reproduction/small/table7.md").read_text()


def test_a_dry_run_writes_nothing(work, capsys, monkeypatch):
    monkeypatch.setattr("fastait.reproduction.cost.measured_rate", lambda *args: 1e9)
    assert main([*TABLE, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert work == ([], [])
    assert list(Path().iterdir()) == []
    assert shown.count("missing") == 3 + 3 * 7
    assert "estimated at" in shown
    assert re.findall(r"missing[ │]+(\d+\.\d) ", shown) == ["3.0", "17.0", "6.0"]
    assert re.search(r"wrn-10-1 of 10 classes: F, a forward pass, is 0\.\d+ GFLOP an image; 77,850 parameters", shown)
    assert main(TABLE) == 0
    before = sorted(Path("reproduction").rglob("*"))
    capsys.readouterr()
    assert main([*TABLE, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("finished") == 3 + 3 * 7
    assert "Left to do: 0 PFLOP" in shown
    assert sorted(Path("reproduction").rglob("*")) == before


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.first(x).mean(dim=(2, 3)))

class NoLayer(Net):
    def forward(self, x):
        return self.first(x).mean(dim=(2, 3)) @ self.fc.weight.t()
"""


def test_a_network_of_ones_own(work, capsys, monkeypatch):
    """A dry run knows it again; what it lacks for the last of several runs is said before the first one."""
    monkeypatch.setattr("fastait.reproduction.cost.measured_rate", lambda *args: 1e9)
    Path("own_of_a_table.py").write_text(OWN)
    for more in ([], ["--dry-run"]):
        line = refused(capsys, *TABLE, "--model", "own_of_a_table:NoLayer", *more)
        assert "the last weights of NoLayer, [10, 4], are no linear layer's" in line
    assert "does not say of which" in refused(capsys, "table8", "--model", "own_of_a_table:Net")
    assert work == ([], [])
    mine = [*TABLE, "--model", "own_of_a_table:Net"]
    assert main(mine) == 0
    capsys.readouterr()
    assert main([*mine, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("finished") == 3 + 3 * 7
    Path("own_of_a_table.py").write_text(OWN + "# another version")
    assert main([*mine, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("missing") == 3 * 7
    sys.modules.pop("own_of_a_table")


def test_a_dry_run_at_the_papers_scale(capsys, monkeypatch):
    """Nothing of a data set is needed for it."""
    monkeypatch.setattr("fastait.reproduction.cost.measured_rate", lambda *args: 1e12)
    assert main(["table8", "--scale", "paper", "--device", "cpu", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "cifar10-iat-manifold-mixup" in shown
    assert "uat is left out: it needs images without labels" in shown


def test_a_dry_run_tells_the_last_weights_from_the_best(capsys, monkeypatch):
    monkeypatch.setattr("fastait.reproduction.cost.measured_rate", lambda *args: 1e12)
    assert main(["fastat", "--device", "cpu", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("digits-fastat-nu-at ") == 2  # a run, its last weights
    assert shown.count("digits-fastat-nu-at, best ") == 1


def test_images_without_labels_are_the_training_images(tmp_path):
    dataset = load_dataset("digits", image_size=8)
    measure.write_unlabeled(dataset, tmp_path / "more")
    assert len(list((tmp_path / "more").iterdir())) == len(dataset.train)


def test_help_is_light():
    script = (
        "import sys\n"
        "from fastait.reproduce import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'sklearn', 'PIL'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_network_that_a_method_cannot_mix_in_is_refused_first(work, capsys, options):
    """Other systems of the table could be trained."""
    Path("own_net.py").write_text(
        "from torch import nn\n\ndef make(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes))\n"
    )
    argv = ["table8", "--device", "cpu", "--model", "own_net:make", *options]
    assert "manifold-mixup mixes at the outputs of 2 blocks of a network, and own_net:make" in refused(capsys, *argv)
    assert not work[0]
