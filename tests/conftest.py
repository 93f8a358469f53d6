"""Shared fixtures. Warnings are errors (pyproject.toml); an exception is named at its test, with why."""

import os
import sys

import pytest

from perfkit import doctor


@pytest.fixture(scope="session")
def chromium_path():
    """Path of Chromium or Chrome. Without one: skip and say how to get it; in CI, fail."""
    found = doctor.find_browser()
    if found:
        return found
    words = f"No Chromium or Chrome was found. {doctor.BROWSER_HELP}"
    if os.environ.get("CI"):
        pytest.fail(words)
    pytest.skip(words)


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """Folder of a phantom cohort of six scans, written once; treat it as read-only."""
    from perfkit import phantom

    return phantom.write_cohort(tmp_path_factory.mktemp("cohort") / "tiny", 6, size="tiny", progress=False)


@pytest.fixture(scope="session")
def cohort(tiny_cohort):
    """The cohort of six scans, opened."""
    from perfkit.datasets import open_cohort

    return open_cohort(tiny_cohort)


@pytest.fixture(scope="session")
def prepared(cohort):
    """Its scans, prepared once: {case: Prepared}; change copies only."""
    from perfkit.preprocessing import prepare_cohort

    return prepare_cohort(cohort).scans


@pytest.fixture(scope="session")
def picks(cohort):
    """What the simulated rater picked: {case: Pick}."""
    from perfkit import annotations

    return annotations.latest(cohort.folder / "aif" / "simulated-rater.csv")


@pytest.fixture(scope="session")
def curves(prepared, picks):
    """AIFs of the arms without training: {arm: {case: (T,)}}."""
    from perfkit import arms

    found, failures = arms.arm_inputs(prepared, picks)
    assert not failures
    return {arm: arms.curves_of(held) for arm, held in found.items()}


@pytest.fixture
def command_line(monkeypatch, capfd):
    """Call ``perfkit`` as its process would; the call returns exit status, stdout, stderr."""
    from perfkit import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["perfkit", *map(str, arguments)])
        capfd.readouterr()
        try:
            status = cli.main() or 0
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capfd.readouterr()

    return call


def pytest_terminal_summary(terminalreporter):
    """Print what tests have measured with ``record_property``, of all processes."""
    measured = [
        (name, value)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
    ]
    if measured:
        terminalreporter.section("measured")
    for name, value in measured:
        terminalreporter.line(f"{name}: {value}")
