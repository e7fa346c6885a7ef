"""What `knowledge` shows and asks: CLAUDE.md files and settings of all machines."""
