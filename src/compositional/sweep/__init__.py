"""Whole tables: sub-tasks and methods as the command lines of their experiments."""

from __future__ import annotations
