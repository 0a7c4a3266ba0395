"""From the output of experiments to tables, pages and plots."""

from __future__ import annotations
