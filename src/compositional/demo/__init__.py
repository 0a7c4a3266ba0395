"""The demo: finished experiments answer one request side by side, as a page of this machine."""
