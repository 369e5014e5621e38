"""``fastait eval --compile`` and ``--tf32``: told to the evaluation, said in eval.json, one journal for all ways."""

import json
from pathlib import Path

import pytest
import torch
import trained

from fastait.eval import main
from fastait.eval_config import EvalArguments
from fastait.evaluation import evaluate


@pytest.fixture
def graphs(monkeypatch):
    """torch.compile without a compiler."""
    found, compile_ = [], torch.compile

    def backend(graph, example):
        found.append(graph)
        return graph.forward

    def stand_in(function, **options):
        return compile_(function, backend=backend, fullgraph=True)

    monkeypatch.setattr(torch, "compile", stand_in)
    return found


def test_compiled_command(graphs):
    common = [str(trained.run("natural").folder), "--samples", "12", "--device", "cpu", "--out", "out"]
    assert main([*common, "--attacks", "pgd2", "--compile", "--tf32"]) == 0
    assert graphs
    content = json.loads(Path("out/eval.json").read_text())
    assert content["search"] == {"compile": True, "tf32": True}
    compiled = content["outcomes"][0]["correct"]["pgd2"]
    graphs.clear()
    assert main([*common, "--attacks", "pgd2"]) == 0
    content = json.loads(Path("out/eval.json").read_text())
    assert content["search"] == {"compile": False, "tf32": False}
    assert content["outcomes"][0]["correct"]["pgd2"] == compiled
    assert len(Path("out/progress-0.jsonl").read_bytes().splitlines()) == 2
    assert main([*common, "--attacks", "pgd3"]) == 0
    assert not graphs


def test_switches_are_plain():
    arguments = EvalArguments(("run",), compile=1, tf32=0)
    assert (arguments.compile, arguments.tf32) == (True, False)
    assert not EvalArguments(("run",)).compile


def test_the_networks_outcomes(graphs):
    """In fp32 an image or none of them comes out otherwise."""
    options = {"epsilon": 20 / 255, "step_size": 5 / 255, "batch_size": 32}
    names = ["pgd5", "pgd5-worst", "apgd-ce-5"]
    expected = evaluate(trained.model("madry"), trained.digits(100), names, **options).correct
    found = evaluate(trained.model("madry"), trained.digits(100), names, compile=True, **options).correct
    for name in names:
        assert int((found[name] != expected[name]).sum()) <= 1
        assert 0 < int(expected[name].sum()) < 100
