"""The scripts that lie in an exported folder, as they are copied there. They know nothing of this package."""
