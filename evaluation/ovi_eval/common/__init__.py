"""Shared basics of the package: reading of plain data, safe display of untrusted text, files, processes."""
