"""Pure kernels in the field's symbols."""
