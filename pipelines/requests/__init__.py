"""The inbox: what teams ask for, and how it becomes a published version. Knows no Dagster."""
