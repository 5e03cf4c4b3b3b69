"""The catalogue: every rule with its name, an example and a counter-example, as data."""

from unix_cxr.reports.rules.base import Action, Rule
from unix_cxr.reports.rules.catalogue import CATALOGUE, rule_named

__all__ = ["CATALOGUE", "Action", "Rule", "rule_named"]
