"""The embedded demo: eight databases, their questions, and what makes them."""
