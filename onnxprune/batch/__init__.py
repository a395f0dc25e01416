"""Many models, many settings: recipes, jobs in processes of their own, a database of results."""
