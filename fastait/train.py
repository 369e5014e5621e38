"""``fastait train``: train a network, evaluate it and print the table."""

if __name__ == "__main__":  # before the rest is imported, so that Ctrl-C meanwhile is one line
    from fastait.__main__ import end_as

    end_as("train")

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path

from fastait.config import GROUPS, TrainConfig
from fastait.recipes import recipe
from fastait.runtime import cli
from fastait.runtime.errors import InputError

COMMAND = "fastait train"
SUMMARY = (
    "Train an image classifier that withstands adversarial examples, by adversarial interpolation training, "
    "and evaluate it. Everything the run writes lies in its run folder."
)


@dataclass(frozen=True, kw_only=True)
class TrainArguments(TrainConfig):
    """The settings of a run, or the run to go on with."""

    resume: Path | None = None
    """Go on with the run in this folder, with its own settings, from its last checkpoint. What says where things lie or
    how they are loaded and run may be changed; with --out, it goes on in a new folder."""

    replay_failure: bool = False
    """With --resume: instead of going on, take the steps from the last checkpoint to the one whose numbers went wrong
    once more, and keep its batch and the state before it in RUN/failure for study."""

    def config(self) -> TrainConfig:
        """The settings alone."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(TrainConfig)})


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return cli.run(COMMAND, _main, argv)


def parsed(argv: list[str]) -> tuple[TrainArguments, TrainArguments]:
    """What a command line says, and what stands for flags that it does not give: the settings of its recipe or run."""
    # The recipe decides the defaults of the method and the schedule, and these those of the other flags.
    words = [word for word in argv if word not in cli.HELP_FLAGS]
    first = cli.parse(COMMAND, TrainArguments(), words, SUMMARY, GROUPS)
    if first.resume is None:
        if first.replay_failure:
            raise InputError("--replay-failure needs the run whose step failed: --resume RUN")
        chosen = cli.parse(COMMAND, TrainArguments(**vars(recipe(first.recipe))), words, SUMMARY, GROUPS)
        settings = recipe(first.recipe, method=chosen.method, schedule=chosen.schedule)
    else:
        from fastait.checkpoints.folder import RunFolder

        settings = replace(RunFolder.existing(first.resume).config(), out=None)
    defaults = TrainArguments(**vars(settings), resume=first.resume, replay_failure=first.replay_failure)
    return cli.parse(COMMAND, defaults, argv, SUMMARY, GROUPS), defaults


def _main(argv: list[str]) -> None:
    arguments, defaults = parsed(argv)
    config = arguments.config()

    if arguments.resume is None:
        config.check()
    from fastait.runtime.memory import keep_freed_memory
    from fastait.runtime.threads import set_threads

    keep_freed_memory()
    set_threads()
    if arguments.resume is None:
        from fastait.training.run import run_training

        run_training(config, show=True)
    else:
        changes = {name: value for name, value in vars(config).items() if getattr(defaults, name) != value}
        if "--model" in {word.partition("=")[0] for word in argv}:  # a function of their own: only if they name it
            changes["model"] = config.model
        if arguments.replay_failure:
            from fastait.training.replay import replay_failure

            replay_failure(arguments.resume, show=True, **changes)
        else:
            from fastait.training.run import resume_training

            resume_training(arguments.resume, show=True, **changes)
