"""The comparison itself: one step anywhere in a file is seen."""

import dataclasses

import numpy as np
import pytest

from tests.judges.cases import case
from tests.judges.reading import differences, operators, within


def changed(ops, role, **fields):
    roles = ops[0].roles
    return [dataclasses.replace(ops[0], roles={**roles, role: dataclasses.replace(roles[role], **fields)}), *ops[1:]]


@pytest.mark.parametrize("role", ["input", "weights", "bias", "output"])
def test_one_step_of_a_scale_is_seen(role):
    ops = case("conv").ours
    scale = ops[0].roles[role].scale.copy()
    scale[-1] = np.nextafter(scale[-1], np.float32(1))
    assert differences(ops, changed(ops, role, scale=scale)) == {(0, "CONV_2D", role, "scale"): 1}


@pytest.mark.parametrize("role", ["weights", "bias"])
def test_one_integer_is_seen(role):
    ops = case("conv").ours
    values = ops[0].roles[role].values.copy()
    values.flat[-1] += 1
    assert differences(ops, changed(ops, role, values=values)) == {(0, "CONV_2D", role, "values"): 1}


def test_zero_point_is_seen():
    ops = case("conv").ours
    zero_point = ops[0].roles["output"].zero_point - 1
    found = differences(ops, changed(ops, "output", zero_point=zero_point))
    assert found == {(0, "CONV_2D", "output", "zero_point"): 1}
    assert within(found, {("output", "scale"): 9}) == found


def test_options_and_order_of_operators_are_seen():
    ops = case("conv").ours
    other = dataclasses.replace(ops[1], options={**ops[1].options, "strideH": 1})
    assert list(differences(ops, [ops[0], other])) == [(1, "CONV_2D", "", "options")]
    with pytest.raises(AssertionError):
        differences(ops, operators(case("add").content))
