"""Views: from pixels to network input."""
