// Runs the model, reads photos and writes results, so that the page itself never waits.
import { Tensor, getWebGpuDevice, loadAndCompile, loadLiteRt } from "@litertjs/core";
import { Watch } from "./domain.js";
import { eachRow, squash } from "./resize.js";

const LONGEST_VIEW = 1280; // pixels of what the page shows; files have the photo's own size
const STRIP = 256; // rows of a photo that are written at once
const MOST_DIFFERENCE = 0.01; // of a probability, between the graphics card's and the processor's

let models = []; // compiled; the first one runs, the next one if that fails
let pads = false; // whether photos are padded to a square
const watch = new Watch(DOMAIN); // set by build.mjs
let current; // the latest photo: { bitmap, mask }

/** Loads the model; rejects if the runtime or the file cannot be loaded. */
async function load(options) {
  ({ pads } = options);
  await loadLiteRt(new URL(".", location.href).href, { threads: false });
  const response = await fetch("../segmenter.tflite");
  if (!response.ok) throw new Error(`segmenter.tflite: ${response.status}`);
  const content = new Uint8Array(await response.arrayBuffer());
  models = [await loadAndCompile(content, { accelerator: "wasm" })];
  if (getWebGpuDevice()) {
    try {
      await addWebGpu(content);
    } catch (error) {
      console.info("WebGPU is not used:", error);
    }
  }
  return { side: side(), accelerator: models[0].options.accelerator };
}

/** Puts WebGPU first if it runs the whole model, with the processor's masks. */
async function addWebGpu(content) {
  const gpuOptions = { precision: "fp32" };
  const model = await loadAndCompile(content, { accelerator: "webgpu", gpuOptions });
  if (!model.isFullyAccelerated) throw new Error("it does not have all operators");
  const ramp = Float32Array.from({ length: 3 * side() ** 2 }, (_, i) => (i * 37) % 256);
  const expected = await runOn(models[0], ramp);
  const found = await runOn(model, ramp);
  const differences = expected.map((value, i) => Math.abs(value - found[i]));
  const difference = differences.reduce((most, value) => (value <= most ? most : value), 0); // or NaN
  if (!(difference <= MOST_DIFFERENCE)) throw new Error(`its masks differ by ${difference}`);
  models.unshift(model);
}

const side = () => models[0].getInputDetails()[0].shape[1];

/** Runs the model on RGB of 0 to 255, [side * side * 3] -> probabilities [side * side]. */
async function run(rgb) {
  try {
    return await runOn(models[0], rgb);
  } catch (error) {
    if (models.length === 1) throw error;
    models.shift(); // the graphics card was lost
    return run(rgb);
  }
}

async function runOn(model, rgb) {
  const [{ dtype, name, shape }] = model.getInputDetails();
  const bytes = dtype === "uint8";
  const tensor = new Tensor(bytes ? Uint8Array.from(rgb, Math.round) : rgb, Array.from(shape));
  const { masks, ...rest } = await model.run({ [name]: tensor });
  tensor.delete();
  const values = await masks.data();
  const mask = Float32Array.from(values, (value) => (bytes ? value / 256 : value));
  for (const output of [masks, ...Object.values(rest)]) output.delete();
  return mask;
}

/** Segments a photo; returns its size, the object's part of it, pictures to show, and a warning. */
async function segment(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // upright
  } catch {
    return { refused: true };
  }
  const { width, height } = bitmap;
  const mask = await run(squash(reader(bitmap), width, height, side(), pads));
  current?.bitmap.close();
  current = { bitmap, mask };
  const scale = Math.min(1, LONGEST_VIEW / Math.max(width, height));
  const size = [width, height].map((length) => Math.max(1, Math.round(length * scale)));
  const views = {};
  let part;
  for (const kind of ["cutout", "mask"]) {
    const context = canvasOf(...size);
    part = draw(context, kind);
    views[kind] = context.canvas.transferToImageBitmap();
  }
  const photo = canvasOf(...size);
  photo.drawImage(bitmap, 0, 0, ...size);
  views.photo = photo.canvas.transferToImageBitmap();
  const warning = watch.add(reader(bitmap), width, height, mask, side());
  return { width, height, part, views, warning };
}

/** Writes the latest photo's cut-out or mask as a PNG file of the photo's size. */
async function save(kind) {
  let { width, height } = current.bitmap;
  let context;
  // Some browsers' canvases are too small for large photos.
  while (!(context = canvasOf(width, height))) {
    [width, height] = [Math.ceil(width * 0.8), Math.ceil(height * 0.8)];
  }
  draw(context, kind);
  return { width, height, blob: await context.canvas.convertToBlob({ type: "image/png" }) };
}

/** Returns a function that reads rows of a photo, over white where it is transparent. */
function reader(bitmap) {
  const { width } = bitmap;
  const context = canvasOf(width, STRIP);
  context.fillStyle = "#fff";
  return (top, count) => {
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    return context.getImageData(0, 0, width, count).data;
  };
}

/** Draws the mask or the cut-out on a canvas of any size; returns the part of it that is object. */
function draw(context, kind) {
  const { bitmap, mask } = current;
  const { width, height } = context.canvas;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  let strip;
  let inside = 0;
  eachRow(mask, side(), width, height, pads, (y, opacities) => {
    const row = y % STRIP;
    if (!row) strip = context.getImageData(0, y, width, Math.min(STRIP, height - y));
    const { data } = strip;
    opacities.forEach((opacity, x) => {
      const i = 4 * (width * row + x);
      inside += opacity >= 0.5;
      const level = Math.floor(255 * opacity + 0.5);
      if (kind === "mask") {
        data.fill(level, i, i + 3);
        data[i + 3] = 255;
      } else {
        data[i + 3] = Math.floor((data[i + 3] * level) / 255 + 0.5); // transparent where the photo is
      }
    });
    if (row === strip.height - 1) context.putImageData(strip, 0, y - row);
  });
  return inside / (width * height);
}

/** Returns the context of a new canvas, or null if the browser cannot make one of this size. */
function canvasOf(width, height) {
  try {
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.fillRect(width - 1, height - 1, 1, 1);
    const works = context.getImageData(width - 1, height - 1, 1, 1).data[3] === 255;
    context.clearRect(width - 1, height - 1, 1, 1);
    return works ? context : null;
  } catch {
    return null;
  }
}

const methods = { load, run, segment, save };
let queue = Promise.resolve(); // calls run one after another

onmessage = ({ data: { id, method, argument } }) => {
  queue = queue.then(async () => {
    try {
      const result = await methods[method](argument);
      postMessage({ id, result }, Object.values(result.views ?? {}));
    } catch (error) {
      console.error(error);
      postMessage({ id, error: String(error) });
    }
  });
};
