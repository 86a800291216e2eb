"""How the base model was made: random schemas, questions and SQL."""
