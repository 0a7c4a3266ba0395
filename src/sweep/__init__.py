"""Whole tables: sub-tasks and methods as the command lines of their experiments."""
