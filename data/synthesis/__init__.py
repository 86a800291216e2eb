"""Synthetic SQL from templates (section 3.1.1)."""
