"""What one engine call sees: windows of the panel and of the targets."""
