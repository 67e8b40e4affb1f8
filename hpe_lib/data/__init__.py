"""People: whose files they are read from, how they are drawn, cropped, fetched and checked."""
