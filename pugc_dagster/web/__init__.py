"""What the web UI offers beyond assets: sensors, schedules, jobs, and a guard before it."""
