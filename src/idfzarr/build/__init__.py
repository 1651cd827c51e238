"""Who runs tasks, and the tasks."""
