"""The house's front door on the network: REST under ``/v1``, and pages for people.

It drops requests into the inbox and shows what the lake holds; it never reads the vault and knows
nothing of Dagster.
"""
