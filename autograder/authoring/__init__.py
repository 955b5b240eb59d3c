"""What those use who write assignments: a template, and a trial of what they have written."""
