"""Lesion masks from an exported `model.onnx`, without this project: python onnx_predict.py model.onnx photograph.jpg

Writes one mask per lesion into the current folder, at the image's own size. Needs numpy, opencv-python-headless and
onnxruntime. The field of view is found in a simpler way than in the project, which also handles coloured and noisy borders:
its box may be a pixel off, and masks may differ slightly. Not a medical device.
"""

import json
import pathlib
import sys

import cv2
import numpy as np
import onnxruntime

if len(sys.argv) != 3 or not cv2.haveImageReader(sys.argv[2]):
    sys.exit("usage: python onnx_predict.py model.onnx photograph.jpg (an image that OpenCV reads)")
session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["pldmlt"])
size, photograph = about["size_px"], cv2.cvtColor(cv2.imread(sys.argv[2]), cv2.COLOR_BGR2RGB)
prepared, seen_px = about["preparation"], session.get_inputs()[0].shape[1]
if prepared != {"fov_crop": True, "resize": "pad", "enhance": "none"} or seen_px != size:
    sys.exit(f"this network wants photographs prepared otherwise than here: {prepared}, {seen_px} px of {size} at once")
lit = (cv2.medianBlur(photograph[..., 0], 5) > 0.08 * np.percentile(photograph[..., 0], 99)).astype(np.uint8)
outline = max(cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=cv2.contourArea)
field = cv2.fillConvexPoly(np.zeros_like(lit), cv2.convexHull(outline), 1)
x, y, crop_width, crop_height = cv2.boundingRect(outline)
scale = size / max(crop_height, crop_width)
height, width = round(crop_height * scale), round(crop_width * scale)
top, left = (size - height) // 2, (size - width) // 2
square = np.zeros((1, size, size, 3), np.float32)
crop = photograph[y : y + crop_height, x : x + crop_width]
interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
square[0, top : top + height, left : left + width] = cv2.resize(crop, (width, height), interpolation=interpolation)
probabilities, grade_logits, _ = session.run(None, {"image": square})
odds = np.exp((grade_logits[0] - grade_logits[0].max()) / about["temperature"])
print("grades 0 to 4:", np.round(odds / odds.sum(), 3))
for name, point in about["operating_points"].items():
    inner = probabilities[0, top : top + height, left : left + width, about["channels"].index(name)]
    mask = np.zeros_like(field)  # outside the field of view the network's answers mean nothing
    enlarged = cv2.resize(np.ascontiguousarray(inner), (crop_width, crop_height), interpolation=cv2.INTER_LINEAR)
    mask[y : y + crop_height, x : x + crop_width] = enlarged > point["threshold"]
    _, labels, components, _ = cv2.connectedComponentsWithStats(mask * field, connectivity=8)
    kept = components[:, cv2.CC_STAT_AREA] >= point["min_area_px"] / scale**2
    mask = ((labels > 0) & kept[labels]).astype(np.uint8)
    print(name, int(mask.sum()), "px")
    cv2.imwrite(f"{pathlib.Path(sys.argv[2]).stem}_{name}.png", 255 * mask)
