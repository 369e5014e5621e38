"""What is known of an image does not depend on the batches, or the processes, that it was measured in."""

import json
from importlib import import_module
from pathlib import Path

import pytest
import small
import torch

from fastait.data import FloatSet
from fastait.evaluation import evaluate
from fastait.evaluation.journal import FileJournal
from fastait.runtime.errors import InputError, NotWritten
from fastait.runtime.processes import Ranks

NAMES = ["fgsm", "pgd3", "pgd5", "cw2-min2", "feature2", "spsa-2x1", "pgd2-worst+cw2-worst+spsa-2x1"]


class Counting(small.Classifier):
    """Counts the images that it is given."""

    images = 0

    def features(self, x):
        self.images += len(x)
        return super().features(x)


ALONE = Ranks()


class OneOf(Ranks):
    """One of several processes whose others are not there."""

    def merge(self, parts):
        return parts


def measured(batch_size=None, names=NAMES, count=70, until=None, ranks=(ALONE,), **options):
    """(outcomes, how many images the model saw) of an evaluation into ``out``, which is killed after some batches."""
    x, y = small.images(count)
    model, left = small.new(Counting), until

    def advance(name, images):
        nonlocal left
        left = None if left is None else left - 1
        if left == 0:
            raise KeyboardInterrupt

    found = []
    for rank in ranks:
        journal = FileJournal(Path("out"), rank.rank)
        options = {"seed": 3, **options, "advance": advance, "journal": journal.of(model="m"), "ranks": rank}
        try:
            found.append(evaluate(model, FloatSet(x, y), names, batch_size=batch_size, **options))
        except KeyboardInterrupt:
            return None, model.images
        finally:
            journal.close()
    return found, model.images


def lines(pattern="progress-*.jsonl"):
    return [json.loads(line) for path in Path("out").glob(pattern) for line in path.read_text().splitlines() if line]


def outcomes_of(line):
    """(column, values) of what a line says, but for what goes with outcomes."""
    return [(n, values) for n, values in line["found"].items() if not n.startswith(("class under", "margin"))]


def known():
    """How often each column was measured of each image."""
    found = {}
    for line in lines():
        for name, values in outcomes_of(line):
            places = [first + i for first, count in line["places"] for i in range(count)]
            assert len(places) == len(values)
            for place in places:
                found[name, place] = found.get((name, place), 0) + 1
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(outcomes, images that the model saw) of an evaluation that nothing stops; images of one with nothing to do;
    what is known in the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        (whole,), images = measured(32)
        found = known()
        assert set(found.values()) == {1}
        _, probes = measured(32)
        assert known() == found
        return whole, images - probes, probes, found


def test_killed_and_gone_on_with_other_batches(undisturbed):
    """Batches of 32, then of 20, then of 7, each time after some have been finished."""
    whole, images, probes, all_that = undisturbed
    seen = 0
    for batch_size, until in ((32, 5), (20, 9), (7, None)):
        found, more = measured(batch_size, until=until)
        seen += more - probes
    assert known() == all_that
    assert seen == images
    for name, outcome in whole.correct.items():
        assert torch.equal(found[0].correct[name], outcome), name
    assert torch.equal(found[0].queries["spsa-2x1"], whole.queries["spsa-2x1"])


def test_batches_are_not_sized_for_what_is_known(monkeypatch):
    def unwanted(*arguments):
        raise AssertionError("sized")

    (found,), _ = measured(names=["pgd3"])
    monkeypatch.setattr(import_module("fastait.evaluation.evaluate"), "default_batch_size", unwanted)
    (again,), _ = measured(names=["pgd3"])
    assert torch.equal(again.correct["pgd3"], found.correct["pgd3"])
    with pytest.raises(AssertionError, match="sized"):
        measured(names=["pgd3", "cw2"])


def test_another_number_of_processes(undisturbed):
    """Begun by one, gone on with by three and finished by two: each takes over what the others have done."""
    whole, images, probes, all_that = undisturbed
    _, seen = measured(20, until=6)
    _, more = measured(9, until=7, ranks=[OneOf(rank, 3) for rank in range(3)])
    seen += more
    found, more = measured(32, ranks=[OneOf(rank, 2) for rank in range(2)])
    assert known() == all_that
    # Each evaluation tries the model on two images before it begins, and before a black box.
    assert (seen + more - images) % 2 == 0
    assert (seen + more - images) // probes <= 1 + 3 + 2
    for name, outcome in whole.correct.items():
        parts = [part.correct[name] for part in found]
        assert torch.equal(torch.stack(parts).any(0), outcome), name


def test_columns_that_are_asked_for_later():
    """Of those images that lack them."""
    measured(16, names=["pgd3"], count=40)
    measured(16, names=["pgd3", "pgd5"], count=40, until=4)  # all of clean, two batches of pgd5
    before = known()
    assert {(name, count) for (name, _), count in before.items()} == {("clean", 1), ("pgd3", 1), ("pgd5", 1)}
    (found,), _ = measured(12, names=["pgd2", "pgd5", "pgd3"], count=40)
    assert set(known().values()) == {1}
    assert len(known()) == 4 * 40
    (whole,), _ = measured(40, names=["pgd2", "pgd5", "pgd3"], count=40, seed=3)
    assert all(torch.equal(found.correct[name], outcome) for name, outcome in whole.correct.items())


def test_lines_of_version_0_2_are_read(undisturbed):
    """Their units were batches."""
    whole, _, _, all_that = undisturbed
    measured(32, until=9)
    old = []
    for line in lines():
        (first, size), *others = line["places"]
        assert not others
        unit = {**json.loads(line["unit"]), "first": first, "size": size}
        old.append(json.dumps({"unit": json.dumps(unit, sort_keys=True), "found": line["found"]}))
    Path("out/progress-0.jsonl").write_text("\n".join(old) + "\n")
    (found,), _ = measured(13)
    done = sum(len(values) for line in lines() for _, values in outcomes_of(line))
    assert done == len(all_that)
    assert all(torch.equal(found.correct[name], outcome) for name, outcome in whole.correct.items())


def test_the_later_line_counts_and_a_torn_one_does_not():
    journal = FileJournal(Path("out"))
    unit = {"epsilon": 0.1}
    journal.put(unit, [0, 1, 2, 7], {"a": [1, 0, 1, 0], "b": [1, 1, 1, 1]})
    journal.put(unit, [1, 2], {"a": [1, 1]})
    journal.close()
    (line, _) = lines()
    assert line["places"] == [[0, 3], [7, 1]]
    whole = Path("out/progress-0.jsonl").read_bytes()
    torn = [b'{"unit": "cut sh', whole.splitlines()[0][:-30]]
    odd = [
        b"[]",
        b'{"unit": {}, "places": [[0, 1]], "found": {"a": [1]}}',
        b'{"unit": "{}", "places": [[0, 2]], "found": {"a": [1]}}',
        b'{"unit": "{}", "places": [[0, 1000000000000]], "found": {}}',
        b'{"unit": "{}", "places": [[-1, 1]], "found": {"a": [1]}}',
        b'{"unit": "{}", "found": {"a": [1]}}',
    ]
    for end in torn:
        Path("out/progress-0.jsonl").write_bytes(b"\n".join([*odd, whole, end]))
        journal = FileJournal(Path("out"))
        assert journal.get({}) == []
        assert journal.get(unit) == [([0, 1, 2, 7], {"a": [1, 0, 1, 0], "b": [1, 1, 1, 1]}), ([1, 2], {"a": [1, 1]})]
        journal.put(unit, [4], {"a": [0]})
        journal.close()
        assert len(FileJournal(Path("out")).get(unit)) == 3


def test_of_places_that_are_said_twice_the_later_value_is_taken():
    (whole,), _ = measured(names=["pgd3"], count=12)
    unit = json.loads(lines()[0]["unit"])
    journal = FileJournal(Path("out"))
    journal.put(unit, [3, 4], {"pgd3": [1 - int(whole.correct["pgd3"][place]) for place in (3, 4)]})
    journal.put(unit, [99], {"pgd3": [1], "of no column": [1]})
    journal.put(unit, [4], {"pgd3": [int(whole.correct["pgd3"][4])]})
    journal.close()
    (found,), _ = measured(names=["pgd3"], count=12)
    assert (found.correct["pgd3"] != whole.correct["pgd3"]).nonzero().flatten().tolist() == [3]


def test_a_batch_that_ran_out_of_memory_is_not_in_it():
    """What was finished before is, and the evaluation goes on from there."""

    class Crowded(small.Classifier):
        room = 16

        def features(self, x):
            if len(x) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().features(x)

    x, y = small.images(40)
    model = small.new(Crowded)
    journal = FileJournal(Path("out"))

    def advance(name, images):
        model.room = 16 if name == "clean" else 0

    with pytest.raises(Exception, match="out of memory with a single image"):
        evaluate(model, FloatSet(x, y), ["pgd2", "cw2"], journal=journal, advance=advance)
    assert {name for name, _ in known()} == {"clean", "pgd2"}
    model.room = 5
    found = evaluate(model, FloatSet(x, y), ["pgd2", "cw2"], journal=journal)
    assert known() == dict.fromkeys([(name, place) for name in ("clean", "pgd2", "cw2") for place in range(40)], 1)
    alone = evaluate(small.new(), FloatSet(x, y), ["pgd2", "cw2"])
    assert all(torch.equal(found.correct[name], outcome) for name, outcome in alone.correct.items())


def test_a_folder_that_is_a_file():
    Path("out").write_text("")
    with pytest.raises(InputError, match="--out out cannot be used: File exists"):
        FileJournal(Path("out"))


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_journal_that_is_removed_while_it_is_written(what):
    """What is written to a file without a name is lost; so it is said at once."""
    journal = FileJournal(Path("out"))
    journal.put({"setting": 1}, [0], {"clean": [1]})
    path = Path("out/progress-0.jsonl")
    path.unlink()
    if what == "replaced":
        path.touch()
    with pytest.raises(NotWritten, match=r"^out/progress-0.jsonl was removed or replaced while .* by the same"):
        journal.put({"setting": 1}, [1], {"clean": [1]})
    journal.close()
