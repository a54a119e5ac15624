"""What the chapters ask for, and what it would cost on a machine."""
