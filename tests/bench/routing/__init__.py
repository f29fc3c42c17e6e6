"""How long a decision takes, and how long it takes to make a hundred thousand of them again."""
