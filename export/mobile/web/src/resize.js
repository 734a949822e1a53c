// The two resizes around the model, as OpenCV does them.

/** For each of `to` cells, the pixels of `from` that it covers and their parts of its area. */
function areas(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, cell) => {
    const start = cell * scale;
    const end = start + scale;
    const parts = [];
    for (let pixel = Math.floor(start); pixel < Math.min(from, Math.ceil(end - 1e-9)); pixel++) {
      parts.push([pixel, (Math.min(end, pixel + 1) - Math.max(start, pixel)) / scale]);
    }
    return parts;
  });
}

/** For each of `to` cells, the two pixels of `from` that it lies between and their weights. */
function neighbours(from, to) {
  return Array.from({ length: to }, (_, cell) => {
    const place = Math.min(from - 1, Math.max(0, ((cell + 0.5) * from) / to - 0.5));
    const low = Math.floor(place);
    const high = Math.min(from - 1, low + 1);
    return [[low, 1 - (place - low)], [high, place - low]];
  });
}

/** RGBA of width x height -> Float32 RGB of side x side, whole numbers from 0 to 255. */
export function squash(rgba, width, height, side) {
  const across = (width > side ? areas : neighbours)(width, side);
  const down = (height > side ? areas : neighbours)(height, side);
  const rows = new Float32Array(height * side * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < side; x++) {
      const target = 3 * (y * side + x);
      for (const [pixel, weight] of across[x]) {
        const source = 4 * (y * width + pixel);
        for (let c = 0; c < 3; c++) rows[target + c] += weight * rgba[source + c];
      }
    }
  }
  const out = new Float32Array(side * side * 3);
  for (let y = 0; y < side; y++) {
    for (const [row, weight] of down[y]) {
      for (let i = 0; i < side * 3; i++) out[y * side * 3 + i] += weight * rows[row * side * 3 + i];
    }
  }
  return out.map(Math.round);
}

/** A mask of side x side -> Float32 of width x height, bilinearly. */
export function enlarge(mask, side, width, height) {
  const across = neighbours(side, width);
  const down = neighbours(side, height);
  const out = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    const [[top, topWeight], [bottom, bottomWeight]] = down[y];
    for (let x = 0; x < width; x++) {
      const [[left, leftWeight], [right, rightWeight]] = across[x];
      out[y * width + x] =
        topWeight * (leftWeight * mask[top * side + left] + rightWeight * mask[top * side + right]) +
        bottomWeight *
          (leftWeight * mask[bottom * side + left] + rightWeight * mask[bottom * side + right]);
    }
  }
  return out;
}
