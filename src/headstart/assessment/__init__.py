"""Measurements of a trained model: scores, few labels, corruptions, pictures. Opens test, once."""
