"""The book's commands of `serlib`; the entry point "serlib.commands" names `parsers`."""

from serbook.cli import book, costs, results


def parsers(commands, add) -> None:
    """Add the commands of the book to those of the package."""
    for module in (book, results, costs):
        module.parsers(commands, add)
