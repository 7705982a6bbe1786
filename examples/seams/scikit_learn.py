"""An encoder as a step of a scikit-learn pipeline, searched and cross-validated like any other."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from ssl_toolkit import Encoder, ImageEmbedder
from ssl_toolkit.encoders import EncoderConfig

rng = np.random.default_rng(0)
label = np.arange(60) % 3
images = (rng.integers(0, 100, (60, 3, 32, 32)) + 60 * label[:, None, None, None]).astype(np.uint8)  # yours

encoder = Encoder(EncoderConfig("convnet", image_size=32))  # or a run folder, an encoder file, timm's weights by name
model = make_pipeline(ImageEmbedder(encoder), LogisticRegression(max_iter=1000))
print(cross_val_score(model, images, label, cv=3))
