"""Text -> strip: fonts, glyphs, lines and pixels, without files of rows. Knows no models."""
