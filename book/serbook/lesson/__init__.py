"""What a reader works with: cells, checks of exercises, notebooks for a class, the panel."""
