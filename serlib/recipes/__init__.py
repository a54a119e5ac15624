"""Recipes: one frozen dataclass with all that decides a result, and one function per paper."""
