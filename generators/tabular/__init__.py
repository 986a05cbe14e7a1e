"""Families that learn tables; one file each."""
