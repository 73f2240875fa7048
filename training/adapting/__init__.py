"""Learning from one's own library, on stored tracks: heads, losses, teacher, graph. May import `evaluation`."""
