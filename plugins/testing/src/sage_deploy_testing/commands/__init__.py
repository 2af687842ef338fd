"""The commands of `sage-deploy` that come with this distribution; each is imported when it is asked for."""
