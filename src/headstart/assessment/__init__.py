"""What a trained model shows: scores, few labels, corruptions, pictures. Opens test, once."""
