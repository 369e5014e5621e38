"""Whatever runs, a signal is obeyed before the next pass of the model, and the same command goes on where that was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small
import torch
import trained
from safetensors.torch import load_file

from fastait.attacks import Subject, suited
from fastait.attacks.shortcut import Shortcut
from fastait.data import FloatSet
from fastait.eval import main
from fastait.evaluation import evaluate
from fastait.models import WideResNet

ATTACKS = "pgd5,pgd3-worst,cw2-min2,apgd-t-3,fab-t-2,square-20,spsa-2x2,pgd2-zero+apgd-ce-2"
KINDS = ["pgd1000", "cw9-min9", "eot9-pgd9", "apgd-ce", "apgd-t", "fab-t", "square", "spsa-64x99", "local-search"]


def argv(attacks, *more, out="out", samples=12):
    model = trained.run("natural").folder
    given = ["--device", "cpu", "--attacks", attacks, "--out", out, "--samples", samples, *more]
    return [str(model), *map(str, given)]


class Passes:
    """Counts the passes of wide ResNets, and signals at one of them."""

    def __init__(self, patch, at=None):
        self.seen, self.at, self.images = 0, at, []
        forward = WideResNet.forward

        def counted(network, x):
            self.seen += 1
            self.images.append(len(x))
            if self.seen == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            return forward(network, x)

        patch.setattr(WideResNet, "forward", counted)


@pytest.mark.parametrize("arguments", [[kind] for kind in KINDS] + [["pgd2", "--masking"]])
def test_no_further_pass_after_a_signal(monkeypatch, capsys, arguments):
    given = argv(*arguments, samples=4 if "--masking" in arguments else 40)
    passes = Passes(monkeypatch, at=60)
    assert main(given) == 128 + signal.SIGTERM
    assert passes.seen == 60
    said = [line for line in capsys.readouterr().err.splitlines() if "stopped" in line]
    assert len(said) == 1
    assert said[0].endswith("stopped; finished batches are kept, go on with the same command and --out out")


def test_on_cpus_black_boxes_score_what_fits_the_cache(monkeypatch):
    """A pass of a thousand images of a large network would be waited for."""
    model = trained.model("natural")
    monkeypatch.setattr(suited, "cached_bytes", lambda: 1)
    passes = Passes(monkeypatch)
    evaluate(model, trained.digits(2), ["spsa-64x1", "local-search-1"], batch_size=500)
    assert max(passes.images) == 8


def test_stopped_at_any_moment_and_gone_on(monkeypatch):
    """Every kind of attack, its images too; all that is written is that of an undisturbed one."""
    more = ["--save-images", "--batch-size", 5]
    whole, given = argv(ATTACKS, *more, out="whole"), argv(ATTACKS, *more)
    with monkeypatch.context() as patch:
        passes = Passes(patch)
        assert main(whole) == 0
    for part in (5, 4, 3):
        with monkeypatch.context() as patch:
            Passes(patch, at=passes.seen // part)
            assert main(given) == 143
    assert main(given) == 0
    found = [json.loads(Path(folder, "eval.json").read_text()) for folder in ("out", "whole")]
    assert found[0]["outcomes"] == found[1]["outcomes"]
    names = {path.name for path in Path("whole").glob("*.safetensors")}
    assert len(names) == 8 + 2
    for name in names:
        (first, second) = (load_file(Path(folder, name)) for folder in ("out", "whole"))
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            # A batch that was stopped is attacked again in other company, which sums are of.
            assert torch.allclose(tensor.double(), second[key].double(), rtol=1e-3, equal_nan=True), (name, key)


def test_hooks_are_the_evaluations_own():
    """One evaluation inside another of the same model: each is told of its own passes, and nothing stays."""
    x, y = small.images(6)
    model, told = Subject.of(small.new(), 10), {"inner": set(), "outer": set()}

    def outer(part, standing):
        told["outer"].add(part)
        if part == "pgd2" and not told["inner"]:
            evaluate(model, FloatSet(x, y), ["cw3"], tick=lambda part, standing: told["inner"].add(part))

    evaluate(model, FloatSet(x, y), ["pgd2"], tick=outer)
    assert told == {"inner": {"getting ready", "clean", "cw3"}, "outer": {"getting ready", "clean", "pgd2"}}
    assert model.before is None


def test_shortcuts_are_watched_too():
    """Each pass once, also where it runs as it was written."""
    seen, x = [], small.images(3)[0]
    subject = Subject.of(small.new()).watched(lambda images: seen.append(len(images)))
    faster = Shortcut(subject, torch.contiguous_format)
    assert torch.equal(faster(x), small.new()(x))
    faster.features(x[:2])
    subject.features(x[:1])
    assert seen == [3, 2, 1]


SLOW = """
import time
from fastait.models import WideResNet

class Net(WideResNet):
    def forward(self, x):
        time.sleep(0.002 * len(x))
        return super().forward(x)

def make(num_classes):
    return Net(10, 1, num_classes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("attacks", ["autoattack", "spsa-2048x100"])
def test_a_process_ends_within_two_seconds(attacks):
    Path("slow_network.py").write_text(SLOW)
    torch.save(trained.model("natural").state_dict(), "weights.pt")
    command = [sys.executable, "-m", "fastait.eval", *argv(attacks, "--model", "slow_network:make", samples=40)]
    command[3] = "weights.pt"
    command += ["--dataset", "digits", "--image-size", "16"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    while not Path("out/progress-0.jsonl").exists() or not Path("out/progress-0.jsonl").read_bytes():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + 15
    assert time.monotonic() - begun < 2
    assert err.splitlines()[-1].endswith("go on with the same command and --out out")
    assert "Traceback" not in err
