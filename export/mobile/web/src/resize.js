// The antialiased bilinear resize of `layered_segmentation/images.py`, in float: nothing is rounded.

const STRIP = 256; // rows that are read at once: few, so that memory does not grow with the photo

/**
 * Returns the weights of a resize along one axis: those of cell i are at starts[i] to starts[i + 1].
 * They fall off linearly from the cell's centre, and add up to 1.
 */
function triangles(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  const starts = [0];
  const pixels = [];
  const weights = [];
  for (let cell = 0; cell < to; cell++) {
    const centre = (cell + 0.5) * scale;
    const last = Math.min(from - 1, Math.ceil(centre + reach));
    let total = 0;
    for (let pixel = Math.max(0, Math.floor(centre - reach)); pixel <= last; pixel++) {
      const weight = 1 - Math.abs(pixel + 0.5 - centre) / reach;
      if (weight <= 0) continue;
      pixels.push(pixel);
      weights.push(weight);
      total += weight;
    }
    starts.push(pixels.length);
    for (let i = starts[cell]; i < starts[cell + 1]; i++) weights[i] /= total;
  }
  return { starts, pixels: Int32Array.from(pixels), weights: Float64Array.from(weights) };
}

/** A weight as Pillow's fixed-point number, so that levels between two are rounded as there. */
const fixed = (weight) => Math.round(weight * 2 ** 22) / 2 ** 22;

/** Pixels before an axis of `length` where it is continued at both ends to `square` pixels. */
const before = (length, square) => Math.floor((square - length) / 2);

/** The weights that turn `length` pixels, continued at the ends to `square`, into `side` cells. */
function shrinking(length, square, side) {
  const axis = triangles(square, side);
  const gap = before(length, square);
  axis.pixels = axis.pixels.map((pixel) => Math.min(length - 1, Math.max(0, pixel - gap)));
  return axis;
}

/** The inverse: those of `length` cells in the middle of `square`, from `side` pixels. */
function enlarging(side, square, length) {
  const { starts, ...axis } = triangles(side, square);
  const gap = before(length, square);
  return { ...axis, starts: starts.slice(gap, gap + length + 1) };
}

/**
 * Makes a photo square, as the segmenter's preprocessing does.
 * @param readRows (top, count) => RGBA of these rows, 4 * width * count bytes
 * @param pads whether the photo's edges are continued to a square, instead of squashing it
 * @param rounds whether levels are rounded along each axis, as Pillow does for photos of bytes
 * @returns Float32 RGB of side * side, 0 to 255
 */
export function squash(readRows, width, height, side, pads = false, rounds = false) {
  const longest = Math.max(width, height);
  const across = shrinking(width, pads ? longest : width, side);
  const down = shrinking(height, pads ? longest : height, side);
  if (rounds) for (const axis of [across, down]) axis.weights = axis.weights.map(fixed);
  const parts = Array.from({ length: height }, () => []); // by row: the cells it is part of
  for (let cell = 0; cell < side; cell++) {
    for (let i = down.starts[cell]; i < down.starts[cell + 1]; i++) {
      parts[down.pixels[i]].push([cell, down.weights[i]]);
    }
  }
  const length = 3 * side;
  const line = new Float64Array(length);
  const out = new Float64Array(side * length);
  for (let top = 0; top < height; top += STRIP) {
    const count = Math.min(STRIP, height - top);
    const rgba = readRows(top, count);
    for (let y = 0; y < count; y++) {
      shrinkLine(rgba, 4 * width * y, across, line);
      if (rounds) line.forEach((level, i) => (line[i] = Math.round(level)));
      for (const [cell, weight] of parts[top + y]) {
        for (let i = 0; i < length; i++) out[cell * length + i] += weight * line[i];
      }
    }
  }
  return Float32Array.from(out, rounds ? Math.round : undefined);
}

function shrinkLine(rgba, offset, { starts, pixels, weights }, line) {
  for (let cell = 0; 3 * cell < line.length; cell++) {
    let red = 0, green = 0, blue = 0;
    for (let i = starts[cell]; i < starts[cell + 1]; i++) {
      const at = offset + 4 * pixels[i];
      red += weights[i] * rgba[at];
      green += weights[i] * rgba[at + 1];
      blue += weights[i] * rgba[at + 2];
    }
    line.set([red, green, blue], 3 * cell);
  }
}

/**
 * Enlarges a mask of side * side to a photo's size; returns a function of the photo's row:
 * y => Float32 of width. Rows outside the photo repeat its first and last ones.
 */
export function enlarge(mask, side, width, height, pads = false) {
  const longest = Math.max(width, height);
  const across = enlarging(side, pads ? longest : width, width);
  const down = enlarging(side, pads ? longest : height, height);
  const line = new Float64Array(side);
  return (y) => {
    const row = Math.min(height - 1, Math.max(0, y));
    line.fill(0);
    for (let i = down.starts[row]; i < down.starts[row + 1]; i++) {
      const offset = side * down.pixels[i];
      for (let x = 0; x < side; x++) line[x] += down.weights[i] * mask[offset + x];
    }
    const out = new Float32Array(width);
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let i = across.starts[x]; i < across.starts[x + 1]; i++) {
        sum += across.weights[i] * line[across.pixels[i]];
      }
      out[x] = sum;
    }
    return out;
  };
}

/** Enlarges a mask of side * side to a photo's size, and squashes it to `to` * `to` cells. */
export function squashMask(mask, side, width, height, to) {
  const [across, down] = [width, height].map((length) => composed(side, length, to));
  const half = Array.from({ length: side }, (_, y) =>
    across.map((weights) => weights.reduce((sum, weight, x) => sum + weight * mask[side * y + x], 0)),
  );
  return Float64Array.from({ length: to * to }, (_, i) =>
    down[Math.floor(i / to)].reduce((sum, weight, y) => sum + weight * half[y][i % to], 0),
  );
}

/** The weights of `from` pixels in each of `to` cells, resized by way of `between` pixels. */
function composed(from, between, to) {
  const [first, second] = [triangles(from, between), triangles(between, to)];
  return Array.from({ length: to }, (_, cell) => {
    const weights = new Float64Array(from);
    for (let i = second.starts[cell]; i < second.starts[cell + 1]; i++) {
      const pixel = second.pixels[i];
      for (let j = first.starts[pixel]; j < first.starts[pixel + 1]; j++) {
        weights[first.pixels[j]] += second.weights[i] * first.weights[j];
      }
    }
    return weights;
  });
}

/**
 * Returns the opacity of a row of the photo, 0 to 1: one half where the probability is, and rising
 * linearly over `softness` pixels across the edge, however slowly the probability itself rises.
 * @param above, row, below Probabilities of three successive rows
 */
export function opacity(above, row, below, softness) {
  const last = row.length - 1;
  return row.map((probability, x) => {
    const dx = (row[Math.min(last, x + 1)] - row[Math.max(0, x - 1)]) / 2;
    const dy = (below[x] - above[x]) / 2;
    const rise = Math.max(softness * Math.hypot(dx, dy), 1e-6);
    return Math.min(1, Math.max(0, 0.5 + (probability - 0.5) / rise));
  });
}

/** Calls `visit(y, opacities)` for every row of a photo, for its mask of side * side. */
export function eachRow(mask, side, width, height, pads, visit) {
  const rowOf = enlarge(mask, side, width, height, pads);
  const softness = Math.max(1.5, Math.max(width, height) / 400);
  let [above, row] = [rowOf(-1), rowOf(0)];
  for (let y = 0; y < height; y++) {
    const below = rowOf(y + 1);
    visit(y, opacity(above, row, below, softness));
    [above, row] = [row, below];
  }
}
