"""``fastait eval RUN...``: how models withstand attacks, side by side."""

if __name__ == "__main__":  # before the rest is imported, so that Ctrl-C meanwhile is one line
    from fastait.__main__ import end_as

    end_as("eval")


from fastait.eval_config import GROUPS, EvalArguments
from fastait.runtime import cli

COMMAND = "fastait eval"
SUMMARY = (
    "Measure how models withstand adversarial examples, in fp32. Models are run folders and files of weights, "
    "RobustBench's and the authors' among them; what has been measured into --out is not measured again."
)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return cli.run(COMMAND, _main, argv)


def _main(argv: list[str]) -> None:
    arguments = cli.parse(COMMAND, EvalArguments(), argv, SUMMARY, GROUPS)
    arguments.check()

    from fastait.evaluation.session import run_evaluation
    from fastait.runtime.memory import keep_freed_memory
    from fastait.runtime.threads import set_threads

    keep_freed_memory()
    set_threads()
    run_evaluation(arguments)
