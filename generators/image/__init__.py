"""Families that learn images; one file each."""
