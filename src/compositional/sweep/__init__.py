"""Whole tables: their rows and sub-tasks as the steps of a graph, and how the graph is run or printed."""

from __future__ import annotations
