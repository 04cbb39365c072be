"""Headless executor: reads workflows, validates, orders and caches them, and runs node classes.

It knows no node: the classes are handed in, and results are opaque to it.
"""

from __future__ import annotations

from .api_format import parse_api, to_api
from .definitions import (
    NodeDefinition,
    definitions_from_classes,
    definitions_from_object_info,
)
from .events import json_lines, report_progress
from .executor import Executor
from .failures import InvalidWorkflow, NodeFailed
from .filenames import expand_prefix
from .formats import parse_workflow, read_workflow
from .graph import Link, Workflow, WorkflowNode
from .loading_nodes import NodePack, load_node_pack
from .run_state import RunResult
from .ui_format import convert
from .validate import Validation, validate
from .values import ExecutionBlocker

__all__ = [
    "read_workflow",
    "parse_workflow",
    "parse_api",
    "convert",
    "to_api",
    "Workflow",
    "WorkflowNode",
    "Link",
    "NodeDefinition",
    "definitions_from_classes",
    "definitions_from_object_info",
    "validate",
    "Validation",
    "Executor",
    "RunResult",
    "ExecutionBlocker",
    "report_progress",
    "json_lines",
    "load_node_pack",
    "NodePack",
    "expand_prefix",
    "InvalidWorkflow",
    "NodeFailed",
]
