"""CLAUDE.md and settings across machines: snapshots, synthesis, and applying with care."""

KNOWLEDGE_REF = "refs/heads/knowledge"
"""The branch in which all of it is."""
