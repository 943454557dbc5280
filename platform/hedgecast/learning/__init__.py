"""Methods that make scenarios, and how they are trained."""
