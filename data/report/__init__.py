"""What a run shows and keeps for people: tables, safe terminals, whole files."""
