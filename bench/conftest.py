"""Benchmarks are timed by ``pytest --benchmark-only`` and called once, untimed, by a plain ``pytest``."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if not config.getoption("benchmark_only"):
        config.option.benchmark_disable = True
    config.option.benchmark_quiet = True  # its table would show rounds, which are the sums of all ways


def pytest_terminal_summary(terminalreporter, config):
    import results

    if results.ROWS:
        from alternating import DEVICE

        path = config.rootpath / ".benchmarks" / "fastait.json"
        results.show(terminalreporter._tw._file, DEVICE)
        results.write(path, DEVICE)
        terminalreporter.write_line(f"written to {path}")
