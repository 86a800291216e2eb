"""SQL queries as trees: read, bound to a schema, printed."""
