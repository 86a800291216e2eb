"""Prompts: schemas as text, linked values, and SQL out of answers (section 3.1.2)."""
