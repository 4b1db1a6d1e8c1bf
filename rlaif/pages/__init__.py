"""HTML pages and charts, shared by reports and judge cards."""
