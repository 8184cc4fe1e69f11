"""One room for each protocol that devices speak. A room imports `interfaces`, `model` and the pure modules only."""
