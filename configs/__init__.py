"""Recipes: one short YAML each, stating only what differs from the defaults."""
