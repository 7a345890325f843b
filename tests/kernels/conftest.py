"""Lets Triton 3.6 interpret kernels beside numpy 2.4, which makes no number of an array of one: as Triton 3.7 does."""

from ropevit.kernels.rotation import triton_available

if triton_available():
    import triton
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_and_mend(tensor, scope):
        patch(tensor, scope)
        tensor.__index__ = lambda self: int(self.handle.data.squeeze())  # the scope takes it away again

    if triton.__version__.startswith("3.6."):
        interpreter._patch_lang_tensor = patch_and_mend
