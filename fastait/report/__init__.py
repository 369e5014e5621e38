"""``fastait report``: one page of what runs and evaluations wrote."""
