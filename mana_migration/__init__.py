"""Moving every user of a live site from wishes to mana, and back."""
