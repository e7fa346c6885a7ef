"""CLAUDE.md and settings across machines: snapshots, synthesis, and applying with care."""
