"""What makes things beside the packages: the site's pages that come from code."""
