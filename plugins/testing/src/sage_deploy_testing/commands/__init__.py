"""The commands of `sage-deploy` in this distribution. Each is imported when it is needed."""
