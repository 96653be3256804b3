"""`benchmarks/accuracy.py`: what was run is not run again, and the test images choose nothing."""

import argparse
import json
import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

import accuracy


def args(**changed):
    given = {"network": ["resnet8"], "rows": ["float", "w8a8"], "seeds": [0, 1], "rate": None}
    return argparse.Namespace(**{**given, **changed})


@pytest.fixture
def ledger(tmp_path):
    return accuracy.Ledger(tmp_path / "runs.jsonl")


@pytest.fixture
def runs(monkeypatch):
    """Keys of the runs; the higher rate is better on the images held out, the lower one on the test images."""
    begun = []

    def measure(args, ledger, key, train, judge):
        if not ledger.find(**key):
            begun.append(key)
            higher = key["rate"] == accuracy.RATES[-1]
            found = 80.0 + higher if key["on"] == "held out" else 90.0 - higher - key["seed"]
            ledger.add({**key, "accuracy": found, "bytes": 1, "as float": 100.0})

    monkeypatch.setattr(accuracy, "measure", measure)
    return begun


DATA = (np.zeros((6000, 1)), np.zeros(6000))


def test_the_first_seed_tries_the_rates(ledger, runs):
    accuracy.run_missing(args(), ledger, DATA, DATA)
    trained = [(key["on"], key["seed"], key["rate"]) for key in runs if key["row"] == "w8a8"]
    best = accuracy.RATES[-1]
    assert trained == [*(("held out", 0, rate) for rate in accuracy.RATES), ("test", 0, best), ("test", 1, best)]
    assert sum(key["row"] == "float" for key in runs) == 1


def test_a_row_may_take_over_the_rate_of_another(ledger, runs):
    accuracy.run_missing(args(rows=["w2a8"], seeds=[0]), ledger, DATA, DATA)
    assert [(key["row"], key["on"]) for key in runs] == [*[("w4a8", "held out")] * 2, ("w2a8", "test")]


def test_a_stopped_benchmark_goes_on(ledger, runs):
    accuracy.run_missing(args(seeds=[0]), ledger, DATA, DATA)
    kept = accuracy.Ledger(ledger.path)
    assert kept.lines == ledger.lines
    runs.clear()
    accuracy.run_missing(args(), kept, DATA, DATA)
    assert [key["seed"] for key in runs] == [1]


def test_a_line_that_was_cut_off_is_told(ledger):
    ledger.path.write_text(json.dumps({"row": "float"}) + '\n{"row": "w8')
    with pytest.raises(SystemExit, match=r"runs.jsonl.*line 2"):
        accuracy.Ledger(ledger.path)


def test_the_images_held_out_choose_the_rate(ledger, runs):
    accuracy.run_missing(args(), ledger, DATA, DATA)
    exact, trained = accuracy.table(args(), ledger, "resnet8")
    assert exact["against float"] == "+0.00"
    assert trained["rate"] == f"{accuracy.RATES[-1]:g}"
    # 89 and 88, their deviation √½.
    assert trained["test accuracy %"] == "88.50 ± 0.71"


@pytest.mark.parametrize("lead, chosen", [(0.3, 4e-4), (1.0, 1e-4)])
def test_a_low_rate_has_to_lead_by_a_standard_error(ledger, lead, chosen):
    # √(80 · 20 / 5,000) is 0.57.
    for rate, found in ((1e-4, 80.0 + lead), (4e-4, 80.0)):
        ledger.add({"network": "resnet8", "row": "w8a8", "rate": rate, "on": "held out", "accuracy": found})
    assert accuracy.chosen_rate(ledger, "resnet8", "w8a8") == chosen


def test_a_given_rate_stands_beside_the_chosen_one(ledger, runs):
    accuracy.run_missing(args(), ledger, DATA, DATA)
    accuracy.run_missing(args(rate=accuracy.RATES[0]), ledger, DATA, DATA)
    _, chosen, other = accuracy.table(args(), ledger, "resnet8")
    assert (chosen["rate"], other["rate"]) == (f"{accuracy.RATES[1]:g}", f"{accuracy.RATES[0]:g}, not chosen")
