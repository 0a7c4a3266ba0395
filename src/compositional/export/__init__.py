"""Export of what an experiment answers with, in formats that other tools load."""
