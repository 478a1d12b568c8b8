"""Environments that are made of other libraries' games and tasks; each needs an optional extra."""
