"""What a class has reached, as a table, a page and a figure, and whose answers are alike."""
