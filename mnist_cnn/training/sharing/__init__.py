"""How several workers share one training: who meets, what they exchange, in which order sums are taken."""
