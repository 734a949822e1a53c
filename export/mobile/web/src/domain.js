// How unlike those of training photos are: `layered_segmentation/segmenter/domain.py` in JavaScript.
import { squash, squashMask } from "./resize.js";

const SIDE = 32; // at which photos and masks are described
const MOST = 3; // standard deviations

const axis = Array.from({ length: SIDE }, (_, i) => i);
const cells = axis.flatMap((y) => axis.map((x) => SIDE * y + x));
const inner = cells.filter((i) => [i % SIDE, Math.floor(i / SIDE)].every((at) => at && at < SIDE - 1));

const log = (value) => Math.log(value + 0.005);
const sum = (values) => values.reduce((total, value) => total + value, 0);
const mean = (values) => sum(values) / values.length;

/** Keeps the numbers of photos, not the photos, to tell whether they look like those of training. */
export class Watch {
  /** @param domain { mean, transform } of domain.json; null if there is none */
  constructor(domain) {
    this.domain = domain;
    this.seen = new Map(); // numbers to coordinates, so a photo that is chosen again counts once
  }

  /**
   * Adds a photo, as of `squash`, and the model's mask of it, side * side.
   * @returns what to tell the visitor about all photos so far; empty if they are as expected
   */
  add(readRows, width, height, mask, side) {
    if (!this.domain) return "";
    const rgb = squash(readRows, width, height, SIDE, false, true);
    const numbers = describe(rgb, squashMask(mask, side, width, height, SIDE));
    this.seen.set(numbers.join(), coordinatesOf(numbers, this.domain));
    const count = this.seen.size;
    if (this.distance() <= 3 + 25 / count + 20 / count ** 2) return "";
    const these = count === 1 ? "This photo looks" : `The ${count} photos of this visit look`;
    return `${these} unlike the photos that this model learnt from. Its masks may be wrong.`;
  }

  /** The squared distance of the photos' mean from that of training, less what chance adds to it. */
  distance() {
    const all = [...this.seen.values()];
    const means = all[0].map((_, i) => mean(all.map((coordinates) => coordinates[i])));
    return sum(means.map((value) => value ** 2)) - means.length / all.length;
  }
}

/** Returns where a photo's numbers lie among those of training. */
function coordinatesOf(numbers, domain) {
  const differences = numbers.map((number, i) => number - domain.mean[i]);
  return domain.mean.map((_, i) => {
    const value = sum(differences.map((difference, j) => difference * domain.transform[j][i]));
    return Math.min(MOST, Math.max(-MOST, value));
  });
}

/** Returns the 24 numbers of a photo, RGB of 0 to 255, and its mask, both of SIDE * SIDE. */
function describe(rgb, mask) {
  const [red, green, blue] = [0, 1, 2].map((channel) => cells.map((i) => rgb[3 * i + channel] / 255));
  const grey = cells.map((i) => (red[i] + green[i] + blue[i]) / 3);
  const colours = [
    grey, cells.map((i) => red[i] - green[i]), cells.map((i) => blue[i] - (red[i] + green[i]) / 2),
  ];
  const texture = inner.map((i) =>
    Math.abs(4 * grey[i] - grey[i - 1] - grey[i + 1] - grey[i - SIDE] - grey[i + SIDE]),
  );
  const numbers = [...shape(mask), ...position(mask)];
  for (const part of [Array.from(mask), Array.from(mask, (value) => 1 - value)]) {
    const found = colours.map((values) => moments(values, part));
    numbers.push(...found.map(([average]) => average), ...found.map(([, deviation]) => deviation));
    numbers.push(log(moments(texture, inner.map((i) => part[i]))[0]));
  }
  return numbers;
}

/** Area, coverage of the frame's edge, certainty, compactness and edges of a mask. */
function shape(mask) {
  const area = mean(mask);
  const frame = axis.flatMap((i) => {
    return [mask[i], mask[SIDE * (SIDE - 1) + i], mask[SIDE * i], mask[SIDE * i + SIDE - 1]];
  });
  const steps = (kept, step) =>
    sum(cells.filter(kept).map((i) => Math.abs(mask[i + step] - mask[i]))) / SIDE;
  const across = steps((i) => i % SIDE < SIDE - 1, 1);
  const along = steps((i) => i < SIDE * (SIDE - 1), SIDE);
  return [
    log(area),
    mean(frame),
    log(mean(mask.map((value) => Math.abs(2 * value - 1)))),
    Math.log((across + along) ** 2 / (area + 0.004) + 0.1),
    Math.log((across + 0.06) / (along + 0.06)),
    log(mean(mask.map((value) => (value > 0.1 && value < 0.9 ? 1 : 0)))),
  ];
}

/** Centre and extent of a mask along each side. */
function position(mask) {
  const total = sum(mask) + 1e-4 * mask.length;
  const places = [(i) => i % SIDE, (i) => Math.floor(i / SIDE)].map((of) => {
    const at = cells.map((i) => (of(i) + 0.5) / SIDE);
    const centre = sum(cells.map((i) => (mask[i] + 1e-4) * at[i])) / total;
    const variance = sum(cells.map((i) => (mask[i] + 1e-4) * (at[i] - centre) ** 2)) / total;
    return [centre, log(Math.sqrt(variance))];
  });
  return [...places.map(([centre]) => centre), ...places.map(([, extent]) => extent)];
}

/** Mean and deviation of values where their weights are. */
function moments(values, weights) {
  const total = sum(weights) + 1e-3 * SIDE;
  const average = sum(values.map((value, i) => value * weights[i])) / total;
  const variance = sum(values.map((value, i) => (value - average) ** 2 * weights[i])) / total;
  return [average, Math.sqrt(variance)];
}
