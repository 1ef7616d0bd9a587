"""The stages, in run order: ugc, quality, instructions, relevance, responses, rewards, pairs, dataset."""
