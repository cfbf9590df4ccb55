"""Images in and out: reading, maps, composing, writing. Imports neither torch nor OpenMMLab."""
