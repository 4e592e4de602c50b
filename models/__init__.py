"""The zoo: one recipe a file, each a real trained model."""
