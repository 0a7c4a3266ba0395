"""From the output of experiments to tables, pages and plots, and what methods cost a device."""

from __future__ import annotations
