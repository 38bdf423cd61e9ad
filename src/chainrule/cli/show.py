"""``chainrule show``: one run in full, or several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from chainrule import tabular
from chainrule.cli.introduction import show_introduction
from chainrule.cli.options import json_option
from chainrule.cli.outcome import (
    evaluation_report,
    run_as_json,
    show_importances,
    show_next_steps,
    show_scores,
    show_verdict,
)
from chainrule.cli.terminal import Terminal, listing, safe
from chainrule.core.files import read_text
from chainrule.metrics import describe_metric
from chainrule.report import Report
from chainrule.report.formats import DASH, count, duration
from chainrule.report.verdict import write_metric
from chainrule.tabular import Run, RunSummary

_EPILOG = """
\b
Examples:
  chainrule show runs/patients
  chainrule show runs/*
  chainrule show runs/patients runs/patients-2 --json
"""
