"""What every part of the package stands on: reading plain data, showing foreign text."""
