"""Imported first by what needs torch and OpenMMLab: where these are absent it says what is missing, and the mend.

``import mmbirefnet`` itself goes through without them, since a machine that runs ONNX models needs neither.
"""

from .version_check import check_environment

check_environment()
