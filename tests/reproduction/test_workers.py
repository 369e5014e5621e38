"""Workers that share a folder: what one leaves another takes up, what one has begun no other overwrites."""

import csv
import errno
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fastait.checkpoints.folder import RunFolder
from fastait.evaluation.journal import FileJournal
from fastait.reproduce import ReproduceArguments, main
from fastait.reproduction import attempts, company, measure, systems
from fastait.reproduction.company import Company, job_script, refuse_not_shared, run_here, worker_command
from fastait.reproduction.worker import Crew, claims_folder, settle
from fastait.runtime import claims, cli
from fastait.runtime.claims import DONE, FAILED, RELEASED, Claims, Record, Worker, last_numbers, last_record
from fastait.runtime.errors import InputError, Interrupted, NotWritten, RunError
from fastait.training.step import Totals

pytestmark = pytest.mark.usefixtures("tiny", "short_table")

TABLE = ["table1", "--device", "cpu"]
SMALL = Path("reproduction/small")
CLAIMS = SMALL / "claims"
STEPS = 23  # of an epoch
FIGURES = 2 * 3  # batches: clean, FGSM and PGD of each network


@pytest.fixture
def soon(monkeypatch):
    """Claims lapse in a third of a second."""
    monkeypatch.setattr(claims, "LAPSE", 0.36)
    monkeypatch.setattr("fastait.reproduction.worker.SOON", 0.05)


@pytest.fixture
def other():
    """The claims of another worker."""
    return Claims(CLAIMS, Worker("other", "elsewhere", 7))


def choices(**given):
    return systems.Choices(systems.SCALES["small"], Path("reproduction"), device="cpu", **given)


def table():
    return list(csv.DictReader(io.StringIO((SMALL / "table1.csv").read_text())))


def failed(capsys, *argv, code):
    assert main([str(a) for a in argv]) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def after_steps(monkeypatch, count, do):
    """Call ``do`` once, after so many steps of training in this process."""
    add, steps = Totals.add, []

    def counted(self, *args):
        add(self, *args)
        steps.append(1)
        if len(steps) == count:
            do()

    monkeypatch.setattr(Totals, "add", counted)


def test_a_worker_makes_all_and_prints_nothing(work, capsys):
    begun, measured = work
    assert main([*TABLE, "--worker"]) == 0
    assert capsys.readouterr().out == ""
    assert not list(SMALL.glob("table1*"))
    assert begun == ["natural", "madry"]
    assert len(measured) == FIGURES
    assert not list(SMALL.glob("attempts/*"))
    run = RunFolder(SMALL / "runs/digits-madry")
    assert run.config().out == run.path
    done = {item: last_record(CLAIMS, item, number)[1].state for item, number in last_numbers(CLAIMS).items()}
    assert len(done) == 2 + 2
    assert set(done.values()) == {DONE}
    assert set(last_numbers(CLAIMS).values()) == {1}
    assert main(TABLE) == 0  # whoever asks prints it
    assert "Table 1" in capsys.readouterr().out
    assert (len(begun), len(measured)) == (2, FIGURES)


@pytest.mark.slow
def test_what_a_stopped_worker_had_is_taken_over_from_its_checkpoint(capsys, monkeypatch, soon, other):
    """And what a dead one had, once its claim has lapsed; the weights are those of a run that nothing disturbed."""
    assert main(["table1", "--device", "cpu", "--out", "undisturbed", "--worker"]) == 0
    with monkeypatch.context() as patch:
        after_steps(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))
        line = failed(capsys, *TABLE, "--worker", code=143)
    assert "stopped; what is done is kept, go on with the same command and --out reproduction" in line
    (attempt,) = SMALL.glob("attempts/*")
    assert attempt.name.startswith("digits-natural@1.")
    assert 0 < RunFolder(attempt).load_checkpoint()["step"] < STEPS
    assert last_record(CLAIMS, "digits-natural", 1)[1].state == RELEASED
    dead = other.take("digits-natural")  # and dies after having copied that
    shutil.copytree(attempt, attempts.new(SMALL / "runs/digits-natural", dead.number, "other"))
    sources, resume = [], measure.resume_training
    monkeypatch.setattr(
        measure, "resume_training", lambda path, **o: sources.append((path.name, o.get("out"))) or resume(path, **o)
    )
    assert main([*TABLE, "--worker"]) == 0
    assert sources[0][0] == "digits-natural@2.other"
    assert sources[0][1].name.startswith("digits-natural@3.")
    assert not list(SMALL.glob("attempts/*"))
    for run in Path("undisturbed/small/runs").iterdir():
        same = SMALL / "runs" / run.name / "model.safetensors"
        assert same.read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_late_worker_gives_up_and_overwrites_nothing(work, capsys, monkeypatch, soon, other):
    """Another takes its run over and comes first, while it trains on; then one of its evaluations."""
    run = SMALL / "runs/digits-natural"

    def overtaken():
        other._seen.clear()
        (CLAIMS / "digits-natural@2").write_bytes(Record(worker=asdict(other.worker)).packed())
        shutil.copytree(next(SMALL.glob("attempts/digits-natural@1*")), run)
        (run / "result.json").write_text(json.dumps({"by": "the other"}))

    after_steps(monkeypatch, 5, overtaken)
    crew = Crew(choices(), measure.Report(False))
    claim = crew.claims.take("digits-natural")
    with pytest.raises((claims.Lost, Interrupted)), claim:
        crew.benches[0].train("natural", claim)
    assert json.loads((run / "result.json").read_text()) == {"by": "the other"}
    assert not (run / "model.safetensors").exists()
    shutil.rmtree(run)
    assert main(TABLE) == 0
    assert "given up" not in capsys.readouterr().err


def test_a_worker_goes_on_with_the_next_after_it_has_lost_one(work, capsys, monkeypatch, soon):
    begun, measured = work
    after_steps(monkeypatch, 5, lambda: (CLAIMS / "digits-natural@2").write_bytes(Record().packed()))
    assert main([*TABLE, "--worker"]) == 0
    err = capsys.readouterr().err
    assert "digits-natural: given up, another worker has taken it over" in err
    assert last_numbers(CLAIMS)["digits-natural"] == 3  # who had taken it over was not heard of
    assert len(set(measured)) == FIGURES
    assert begun[:2] == ["natural", "madry"]


def test_outcomes_are_not_written_by_one_that_was_overtaken(work, capsys, monkeypatch, soon):
    _, measured = work
    put, done = FileJournal.put, []

    def overtaken(self, *unit):
        put(self, *unit)
        done.append(1)
        if len(done) == 4:
            (name,) = (item for item in last_numbers(CLAIMS) if last_record(CLAIMS, item, 1)[1].state == claims.WORKING)
            (CLAIMS / f"{name}@2").write_bytes(Record().packed())

    monkeypatch.setattr(FileJournal, "put", overtaken)
    assert main([*TABLE, "--worker"]) == 0
    assert "given up" in capsys.readouterr().err
    assert len(set(measured)) == FIGURES
    assert len(measured) <= FIGURES + 1  # the batch that was not written


def test_what_fails_is_said_and_the_rest_is_made(work, capsys, monkeypatch):
    train = measure.run_training

    def fails(config, **options):
        if config.method == "madry":
            raise RunError("the loss became NaN or infinite at step 3 (epoch 1)")
        return train(config, **options)

    with monkeypatch.context() as patch:
        patch.setattr(measure, "run_training", fails)
        line = failed(capsys, *TABLE, code=1)
        assert "some of it failed, and the same command tries it again: digits-madry (the loss became NaN" in line
    text = (SMALL / "table1.md").read_text()
    assert "3 of 6 figures are missing, of madry." in text
    assert "digits-madry failed: the loss became NaN or infinite at step 3 (epoch 1)." in text
    assert "- (paper 54.9)" in text
    assert last_record(CLAIMS, "digits-madry", 1)[1].state == FAILED
    assert main([*TABLE, "--status"]) == 0
    said = capsys.readouterr().out
    assert "2 done, 1 failed, 1 waiting" in said
    assert "digits-madry failed: the loss became NaN" in said
    assert "table1: still missing: digits-madry, digits-madry-at-24" in said
    assert main(TABLE) == 0
    assert "missing" not in (SMALL / "table1.md").read_text()


def test_a_full_disk_ends_a_worker_and_nothing_is_lost(work, capsys, monkeypatch):
    put, done = FileJournal.put, []

    def full(self, *unit):
        done.append(1)
        if len(done) == 4:
            raise NotWritten("progress could not be written: No space left on device; earlier batches are kept")
        put(self, *unit)

    with monkeypatch.context() as patch:
        patch.setattr(FileJournal, "put", full)
        assert "No space left on device" in failed(capsys, *TABLE, "--worker", code=1)
    states = [last_record(CLAIMS, item, 1)[1].state for item in last_numbers(CLAIMS)]
    assert sorted(states) == [DONE, DONE, DONE, RELEASED]
    assert main([*TABLE, "--worker"]) == 0
    assert len(set(work[1])) == len(work[1]) == FIGURES


def test_a_run_that_was_begun_by_other_means_is_gone_on_with(capsys, monkeypatch):
    """In its place, as earlier versions did, or by torchrun."""
    run = SMALL / "runs/digits-natural"
    with monkeypatch.context() as patch:
        after_steps(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            measure.run_training(choices().config("natural"))
    with RunFolder(run) as busy:
        busy.lock()
        code = (
            "from pathlib import Path\nfrom fastait.reproduction import attempts\n"
            f"attempts.take_over(Path({str(run)!r}))"
        )
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
        assert "another process is training in this folder" in said
    assert attempts.begun(run) == run
    source = attempts.take_over(run)
    assert source.name.startswith("digits-natural@0.")
    assert source.parent == SMALL / "attempts"
    assert 0 < RunFolder(source).load_checkpoint()["step"] < STEPS
    assert main([*TABLE, "--worker"]) == 0
    assert attempts.finished(run)
    assert not list(SMALL.glob("attempts/*"))


def test_a_file_system_without_locks(monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    assert main([*TABLE, "--worker"]) == 0
    assert attempts.finished(SMALL / "runs/digits-madry")


def test_a_finished_attempt_is_given_its_name_by_whoever_comes_next(monkeypatch):
    crew = Crew(choices(), measure.Report(False))
    with monkeypatch.context() as patch, crew.claims.take("digits-natural") as claim:
        patch.setattr(attempts, "publish", lambda *paths: None)  # it dies before
        crew.benches[0].train("natural", claim)
    before = next(SMALL.glob("attempts/*"))
    weights = (before / "model.safetensors").read_bytes()
    with crew.claims.take("digits-natural") as claim:
        monkeypatch.setattr(measure, "resume_training", None)
        crew.benches[0].train("natural", claim)
    assert (SMALL / "runs/digits-natural/model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_several_seeds_are_means(work, capsys):
    begun, _ = work
    assert main([*TABLE, "--worker"]) == 0
    assert main([*TABLE, "--seeds", "0,1"]) == 0
    assert begun == 2 * ["natural", "madry"]
    said = capsys.readouterr().out
    assert "mean ± standard error of 2 trainings" in " ".join(said.split())
    rows = table()
    for row in rows:
        each = [float(one) for one in row["each_seed"].split()]
        assert float(row["ours"]) == pytest.approx(sum(each) / 2, abs=2e-3)
        assert float(row["standard_error"]) == pytest.approx(abs(each[0] - each[1]) / 2, abs=2e-3)
    assert RunFolder(SMALL / "runs/digits-madry-seed=1").config().seed == 1
    assert main([*TABLE, "--seeds", "1"]) == 0
    for row, both in zip(table(), rows, strict=True):
        assert float(row["ours"]) == pytest.approx(float(both["each_seed"].split()[1]), abs=2e-3)
    assert len(begun) == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["table1", "--worker", "--status"], "--worker and --status are two things to do; leave one out"),
        (["table1", "--submit", "slrum"], "Did you mean 'slurm'?"),
        (["table1", "--workers", "2"], "--workers is for --submit local or slurm"),
        (["table1", "--submit", "local", "--time", "1:00:00"], "--time is for --submit slurm"),
        (["table1", "--submit", "local", "--workers", "0"], "--workers must be at least 1, got 0"),
        (["table1", "--submit", "slurm", "--gpus", "-1"], "--gpus must be at least 0, got -1"),
        (["table1", "--seeds", "0,0"], "--seeds must be different whole numbers >= 0, got [0, 0]"),
        (["table1", "--seeds", "0;1"], "'0;1' is not whole numbers with commas between, such as 0,1,2"),
        (["figure4", "--seeds", "0,1"], "figure4 is drawn of one training: give --seeds one number"),
    ],
)
def test_refusals(capsys, argv, message):
    assert message in failed(capsys, *argv, code=2)
    assert not Path("reproduction").exists()


def test_there_is_no_slurm_here(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    line = failed(capsys, *TABLE, "--submit", "slurm", code=2)
    assert "--submit slurm: there is no sbatch here; submit from a machine of the cluster" in line


def test_workers_that_are_not_alike_are_refused(monkeypatch):
    settle(choices())
    settle(choices(seeds=(3,)))
    with pytest.raises(InputError, match=r"was begun with amp False, and this is amp True: all workers must be alike"):
        settle(choices(amp=True))
    monkeypatch.setattr("fastait.reproduction.worker.__version__", "99.0")
    with pytest.raises(InputError, match=r"was begun with fastait .*, and this is fastait 99.0"):
        settle(choices())
    (CLAIMS / "settings.json").unlink()
    settle(choices())


def test_workers_that_are_not_alike_and_began_in_the_same_moment(work, capsys, monkeypatch):
    """Each found nobody there and wrote down its settings: the one that was first goes."""
    from fastait.reproduction import session

    def both(mine):
        settle(mine)
        (CLAIMS / "settings.json").unlink()
        settle(choices(amp=True))

    monkeypatch.setattr(session, "settle", both)
    line = failed(capsys, *TABLE, "--worker", code=2)
    assert "was begun with amp True, and this is amp False: all workers must be alike" in line
    assert work == ([], [])
    assert {last_record(CLAIMS, item, number)[1].state for item, number in last_numbers(CLAIMS).items()} == {RELEASED}


def test_a_folder_that_is_not_shared_is_known_by_its_token(capsys, monkeypatch):
    known = company.token(CLAIMS)
    assert company.token(CLAIMS) == known
    monkeypatch.setenv(company.TOKEN, known)
    refuse_not_shared(CLAIMS)
    shutil.rmtree(SMALL)
    line = failed(capsys, *TABLE, "--worker", code=2)
    assert "is here not the folder that this job was submitted for; it must lie where all machines see the same" in line


def test_a_workers_command_says_what_was_asked(tmp_path):
    argv = ["table1", "epsilons", "--seeds", "0,2", "--amp", "--device", "cpu", "--submit", "local", "--workers", "3"]
    arguments = cli.parse("fastait reproduce", ReproduceArguments(), argv, "")
    command = worker_command("reproduce", arguments)
    assert command[:4] == [sys.executable, "-m", "fastait", "reproduce"]
    assert command[-1] == "--worker"
    again = cli.parse("fastait reproduce", ReproduceArguments(), command[4:], "")
    assert again == replace(arguments, submit=None, workers=None, worker=True)
    jobs = Company(workers=6, time="1:00:00", partition="p", account="a")
    script = job_script(command, tmp_path, jobs, "token", False)
    lines = script.splitlines()
    for option in ("array=1-6", "requeue", "gpus=1", "time=1:00:00", "partition=p", "account=a", "signal=B:USR1@120"):
        assert f"#SBATCH --{option}" in lines
    assert not any("gpus" in line for line in job_script(command, tmp_path, Company(), "token", True).splitlines())
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_workers_of_this_machine(tmp_path, monkeypatch, capfd):
    """GPUs and cores are shared out; a failure is said with the last line of its log; a signal reaches each once."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("OMP_NUM_THREADS")
    code = (
        "import os\nfor name in ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS'): print(os.environ[name])\n"
        "print(os.getsid(0) == os.getpid())"
    )
    run_here([sys.executable, "-c", code], tmp_path, 3)
    said = [(tmp_path / f"logs/worker-{n}.log").read_text().split() for n in (1, 2, 3)]
    assert [gpu for gpu, *_ in said] == ["4", "7", "4"]
    assert len({threads for _, threads, _ in said}) == 1
    assert {leads for *_, leads in said} == {"True"}  # a terminal's Ctrl-C does not reach it besides
    assert "3 workers" in capfd.readouterr().err
    run_here([sys.executable, "-c", "import sys; print('why'); sys.exit(3)"], tmp_path, 2)
    assert capfd.readouterr().err.count("warning: a worker ended with exit code 3: why (") == 2
    code = (
        "import signal, sys, time\nsignals = []\nsignal.signal(signal.SIGTERM, lambda n, f: signals.append(n))\n"
        "print('ready', flush=True)\nwhile not signals: time.sleep(0.01)\ntime.sleep(0.3)\nprint(len(signals))"
    )

    def stop_when_ready(seconds, sleep=time.sleep):
        sleep(0.05)
        logs = list((tmp_path / "logs").glob("*.log"))
        if all("ready" in log.read_text() for log in logs) and not stopped:
            stopped.append(1)
            signal.raise_signal(signal.SIGTERM)

    stopped = []
    for log in (tmp_path / "logs").glob("*.log"):
        log.unlink()
    monkeypatch.setattr(company.time, "sleep", stop_when_ready)
    with pytest.raises(Interrupted, match="the workers have saved what is done"):
        run_here([sys.executable, "-c", code], tmp_path, 2)
    assert [log.read_text().split()[-1] for log in (tmp_path / "logs").glob("*.log")] == ["1", "1"]


def test_status(capsys, monkeypatch, soon, other):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*TABLE, "--status"]) == 0
    assert "4 waiting" in capsys.readouterr().out
    assert not Path("reproduction").exists()
    Claims(CLAIMS, other.worker)
    running = Claims(CLAIMS, Worker("w", "node7", 42, "9_3")).take("digits-natural")
    running.progress = lambda: {"doing": "3 of 12 epochs", "left": 65.0}
    silent = Claims(CLAIMS, Worker("v", "node8", 43)).take("digits-madry")
    with running:
        assert main([*TABLE, "--status"]) == 0
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if " digits-natural " in line)
    assert all(part in line for part in ("running", "node7, process 42, job 9_3", "3 of 12 epochs", "0:01:05"))
    (line,) = (line for line in said.splitlines() if " digits-madry " in line)
    assert "nothing heard" in line
    assert silent.number == 1
    assert "1 running, 1 nothing heard, 2 waiting" in said


def test_claims_lie_with_what_they_are_of():
    assert claims_folder(choices()) == CLAIMS
