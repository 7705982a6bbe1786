"""Pretext tasks: one file a task."""
