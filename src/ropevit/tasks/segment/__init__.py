"""Segmentation: a class for each pixel, by UperNet or Mask2Former on the maps of a backbone."""
