"""Lesion masks from an exported `model.onnx`, without this project: python onnx_predict.py model.onnx photograph.jpg

Writes one mask a lesion beside the photograph, at its size. Needs numpy, opencv-python-headless and onnxruntime. The field
of view is found more simply here than by the project, which also knows coloured borders. Not a medical device.
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["pldmlt"])
size, photograph = about["size_px"], cv2.cvtColor(cv2.imread(sys.argv[2]), cv2.COLOR_BGR2RGB)
lit = cv2.medianBlur(photograph[..., 0], 5) > 0.08 * np.percentile(photograph[..., 0], 99)
(y0, *_, y1), (x0, *_, x1) = (np.flatnonzero(lit.mean(axis=axis) > 0.02) for axis in (1, 0))
crop = photograph[y0 : y1 + 1, x0 : x1 + 1]
scale = size / max(crop.shape)
height, width = (round(side * scale) for side in crop.shape[:2])
top, left = (size - height) // 2, (size - width) // 2
square = np.zeros((size, size, 3), np.float32)
square[top : top + height, left : left + width] = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
probabilities, grade_logits, _ = session.run(None, {"image": square[None]})
odds = np.exp((grade_logits[0] - grade_logits[0].max()) / about["temperature"])
print("grades 0 to 4:", np.round(odds / odds.sum(), 3))
for name, point in about["operating_points"].items():
    inner = probabilities[0, top : top + height, left : left + width, about["channels"].index(name)]
    mask = np.zeros(photograph.shape[:2], np.uint8)
    enlarged = cv2.resize(np.ascontiguousarray(inner), crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    mask[y0 : y1 + 1, x0 : x1 + 1] = 255 * (enlarged > point["threshold"])
    print(name, int((mask > 0).sum()), "px")
    cv2.imwrite(f"{sys.argv[2].rsplit('.', 1)[0]}_{name}.png", mask)
