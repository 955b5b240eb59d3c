"""Processes that are started once, told what to do and listened to, and what they hold: locks, temporary folders."""
