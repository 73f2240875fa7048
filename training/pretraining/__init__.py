"""TG-DP's training: config, objective, losses, teacher, the loop. May import `evaluation` and the rooms below it."""
