"""The five tasks: their targets, their losses and the total, their answers and scores."""
