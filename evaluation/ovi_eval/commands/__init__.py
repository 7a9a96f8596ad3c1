"""The commands of ovi-eval, one file each."""
