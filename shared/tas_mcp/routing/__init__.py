"""Routing: which target gets an event, and why.

A ``View`` shows one event to the conditions; a ``RuleSet`` is the compiled rules of one target, a ``RuleBook`` of all.

The rules of the package:

* pure: no I/O, no clock, no logging, no state that outlives a call but the compiled rules themselves;
* what is wrong with a rule is said when it is compiled, all of it and where; evaluating never raises;
* compiled once, evaluated often: rules, sets and books are immutable, and may be shared by threads;
* data is decoded at most once per event, and not at all unless a rule asks.
"""

from tas_mcp.routing.book import Explained, Match, Route, RuleBook, Split
from tas_mcp.routing.conditions import Condition, ConditionError, Node, Why, compile_condition, compile_conditions
from tas_mcp.routing.fields import FieldSyntaxError, compile_field
from tas_mcp.routing.operators import OPERATORS
from tas_mcp.routing.rules import Decision, Rule, RuleSet, compile_rules
from tas_mcp.routing.transforms import Output, Reshape, Transform, TransformError, TransformFailed, compile_transform, is_template
from tas_mcp.routing.view import MISSING, Missing, View, payload_text

__all__ = [
    "MISSING",
    "OPERATORS",
    "Condition",
    "ConditionError",
    "Decision",
    "Explained",
    "FieldSyntaxError",
    "Match",
    "Missing",
    "Node",
    "Output",
    "Reshape",
    "Route",
    "Rule",
    "RuleBook",
    "RuleSet",
    "Split",
    "Transform",
    "TransformError",
    "TransformFailed",
    "View",
    "Why",
    "compile_condition",
    "compile_conditions",
    "compile_field",
    "compile_rules",
    "compile_transform",
    "is_template",
    "payload_text",
]
