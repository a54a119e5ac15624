"""Executed chapters as a site and as a PDF, and the pages that are made from the code."""
