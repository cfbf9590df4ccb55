"""Reading images, operations on maps, composing and writing outputs. Imports neither torch nor OpenMMLab."""
