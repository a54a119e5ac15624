"""The machinery of the book: chapters run, rendered, judged and priced. It imports `serlib`."""
