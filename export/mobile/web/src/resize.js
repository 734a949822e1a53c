// The antialiased bilinear resize of `layered_segmentation/images.py`.

/** For each of `to` cells: the pixels of `from` that it covers, with weights that fall off linearly. */
function triangles(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, cell) => {
    const centre = (cell + 0.5) * scale;
    const parts = [];
    const last = Math.min(from - 1, Math.ceil(centre + reach));
    for (let pixel = Math.max(0, Math.floor(centre - reach)); pixel <= last; pixel++) {
      const weight = 1 - Math.abs(pixel + 0.5 - centre) / reach;
      if (weight > 0) parts.push([pixel, weight]);
    }
    const total = parts.reduce((sum, [, weight]) => sum + weight, 0);
    return parts.map(([pixel, weight]) => [pixel, weight / total]);
  });
}

/** Resizes pixels of `stride` numbers each, of which the first `channels` are kept, to Float32. */
function resize(values, stride, channels, width, height, toWidth, toHeight) {
  const rows = new Float32Array(height * toWidth * channels);
  triangles(width, toWidth).forEach((parts, x) => {
    for (let y = 0; y < height; y++) {
      const target = channels * (y * toWidth + x);
      for (const [pixel, weight] of parts) {
        const source = stride * (y * width + pixel);
        for (let c = 0; c < channels; c++) rows[target + c] += weight * values[source + c];
      }
    }
  });
  const length = toWidth * channels;
  const out = new Float32Array(toHeight * length);
  triangles(height, toHeight).forEach((parts, y) => {
    for (const [row, weight] of parts) {
      for (let i = 0; i < length; i++) out[y * length + i] += weight * rows[row * length + i];
    }
  });
  return out;
}

/** RGBA of width x height -> Float32 RGB of side x side, whole numbers from 0 to 255. */
export function squash(rgba, width, height, side) {
  return resize(rgba, 4, 3, width, height, side, side).map(Math.round);
}

/** A mask of side x side -> Float32 of width x height. */
export function enlarge(mask, side, width, height) {
  return resize(mask, 1, 1, side, side, width, height);
}
