"""The commands of `sage-deploy` that try services; each module is imported when its command is used."""
