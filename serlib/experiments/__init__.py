"""From a recipe to its result: data located and divided, trained, tested once, many at a time."""
