"""Data and the code of section 3.1: benchmark folders, SQL templates, synthesis, the demo world."""
