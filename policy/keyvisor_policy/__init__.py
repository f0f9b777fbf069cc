"""Policies: which secret meets which HSM, and which association is allowed.

`load` or `parse` a file, then ask the Policy: `assign` for a plan, `permit` at each association. The names are
handed on when they are asked for, so that a verb that only prints does not load YAML and models first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyvisor_policy.cases import Case, Expectation
    from keyvisor_policy.errors import DocumentError, Finding, InventoryRefused, NotPermitted, PolicyError
    from keyvisor_policy.hsms import Holding, Hsm, Mode, SecretId, holding, secret_id
    from keyvisor_policy.inventory import Inventory, parse_inventory
    from keyvisor_policy.loading import load, parse
    from keyvisor_policy.matching import Mismatch, Refusal
    from keyvisor_policy.never import Description, Is, Never
    from keyvisor_policy.plan import HsmOutcome, Plan, Reason, RuleOutcome, Step
    from keyvisor_policy.policy import Policy
    from keyvisor_policy.prove import Allowed, Proof, Shadow
    from keyvisor_policy.rules import Interval, Pattern, Rule, Secret

__all__ = [
    "Allowed",
    "Case",
    "Description",
    "DocumentError",
    "Expectation",
    "Finding",
    "Holding",
    "Hsm",
    "HsmOutcome",
    "Interval",
    "Inventory",
    "InventoryRefused",
    "Is",
    "Mismatch",
    "Mode",
    "Never",
    "NotPermitted",
    "Pattern",
    "Plan",
    "Policy",
    "PolicyError",
    "Proof",
    "Reason",
    "Refusal",
    "Rule",
    "RuleOutcome",
    "Secret",
    "SecretId",
    "Shadow",
    "Step",
    "holding",
    "load",
    "parse",
    "parse_inventory",
    "secret_id",
]

_MODULES = {
    "cases": ("Case", "Expectation"),
    "errors": ("DocumentError", "Finding", "InventoryRefused", "NotPermitted", "PolicyError"),
    "hsms": ("Holding", "Hsm", "Mode", "SecretId", "holding", "secret_id"),
    "inventory": ("Inventory", "parse_inventory"),
    "loading": ("load", "parse"),
    "matching": ("Mismatch", "Refusal"),
    "never": ("Description", "Is", "Never"),
    "plan": ("HsmOutcome", "Plan", "Reason", "RuleOutcome", "Step"),
    "policy": ("Policy",),
    "prove": ("Allowed", "Proof", "Shadow"),
    "rules": ("Interval", "Pattern", "Rule", "Secret"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
