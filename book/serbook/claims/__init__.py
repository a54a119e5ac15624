"""The claims of the papers: a ledger of them, rules, evidence, verdicts, and pages for readers."""
