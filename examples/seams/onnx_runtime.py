"""An encoder in onnxruntime (extra `onnx`)."""

import numpy as np
import onnxruntime

from ssl_toolkit import export, pretrain

images = np.random.default_rng(0).integers(0, 256, (32, 3, 32, 32), np.uint8)  # yours

run = pretrain(
    "simclr", images, "runs/seam_onnx", encoder="convnet", batch_size=8, epochs=1, progress=False, overwrite=True
)
export(run, format="onnx", out="runs/seam_onnx/encoder.onnx", data=images, overwrite=True)
session = onnxruntime.InferenceSession("runs/seam_onnx/encoder.onnx")
(features,) = session.run(None, {session.get_inputs()[0].name: images[:4].astype(np.float32) / 255})
print(features.shape)
