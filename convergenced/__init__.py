"""convergenced keeps Claude Code's sessions and memory in step across machines."""

__version__ = "0.1.0"
