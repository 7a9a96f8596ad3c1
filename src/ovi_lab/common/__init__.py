"""Shared by every command: errors, progress, the command line and the composed configuration."""
