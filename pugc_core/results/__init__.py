"""What came of a recipe, for people and for other programs: summaries, plots, comparisons, exports."""
