"""What the web UI offers beyond assets: sensors, schedules and jobs."""
