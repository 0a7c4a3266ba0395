"""From the output of experiments to tables, pages and plots."""
