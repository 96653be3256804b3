"""Precision of layers: one policy for each, and maps from layer paths to policies."""

from keras_quant.policy.float import dtype_of, policy_name
from keras_quant.policy.map import PolicyMap, as_map
from keras_quant.policy.policy import FLOATS, NARROW, PRESETS, Policy, get

__all__ = ["NARROW", "PRESETS", "Policy", "PolicyMap", "as_map", "dtype_of", "get", "policy_name"]
