"""What the chapters ask for, what it would cost on a machine, and a rehearsal of it."""
