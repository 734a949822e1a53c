import { Tensor, loadAndCompile, loadLiteRt } from "@litertjs/core";
import { enlarge, squash } from "./resize.js";

const LONGEST = 2048; // larger photos are shrunk first: canvases on phones are limited
const find = (id) => document.getElementById(id);

/** Loads the model; rejects if the runtime or the file cannot be loaded. */
async function loadModel() {
  await loadLiteRt(new URL("wasm/", location.href).href, { threads: false });
  const url = new URL("segmenter.tflite", location.href).href;
  const model = await loadAndCompile(url, { accelerator: "wasm" });
  return { model, input: model.getInputDetails()[0] };
}

/** Runs the model on RGB of 0 to 255, [side * side * 3] -> probabilities [side * side]. */
async function run({ model, input }, rgb) {
  const shape = Array.from(input.shape);
  const bytes = input.dtype === "uint8";
  const tensor = new Tensor(bytes ? Uint8Array.from(rgb) : rgb, shape);
  const [result] = await model.run([tensor]);
  tensor.delete();
  const values = await result.data();
  const mask = Float32Array.from(values, (value) => (bytes ? value / 256 : value));
  result.delete();
  return mask;
}

/** Reads a photo, upright, as ImageData. */
async function readPhoto(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

function setStatus(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

function draw(canvas, width, height, pixels) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
}

/** Draws the photo, the mask (white is object) and the cut-out. */
function show(photo, probabilities) {
  const { width, height, data } = photo;
  const mask = new Uint8ClampedArray(data.length).fill(255);
  const cutout = Uint8ClampedArray.from(data);
  let inside = 0;
  probabilities.forEach((probability, i) => {
    const isObject = probability >= 0.5;
    inside += isObject;
    mask.fill(isObject ? 255 : 0, 4 * i, 4 * i + 3);
    if (!isObject) cutout[4 * i + 3] = 0;
  });
  draw(find("photo"), width, height, data);
  draw(find("mask"), width, height, mask);
  draw(find("cutout"), width, height, cutout);
  find("result").hidden = false;
  return inside / probabilities.length;
}

let latest = 0;

async function segment(file) {
  const turn = ++latest; // only the photo chosen last is shown
  setStatus("Cutting out …");
  find("result").hidden = true;
  let photo;
  try {
    photo = await readPhoto(file);
  } catch {
    if (turn === latest) setStatus(`“${file.name}” is not an image that this browser can read.`, true);
    return;
  }
  try {
    const loaded = await ready;
    const side = loaded.input.shape[1];
    const mask = await run(loaded, squash(photo.data, photo.width, photo.height, side));
    if (turn !== latest) return;
    const part = show(photo, enlarge(mask, side, photo.width, photo.height));
    setStatus(part ? `Done: the object covers ${Math.round(100 * part)} % of ${file.name}.`
             : `No object was found in ${file.name}.`);
  } catch (error) {
    console.error(error);
    if (turn === latest) setStatus("The model failed on this photo. Reload the page to try again.", true);
  }
}

function download(id) {
  find(id).toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${id}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

const ready = loadModel();
ready.then(
  () => {
    setStatus("Ready. Choose a photo.");
    find("file").disabled = false;
  },
  (error) => {
    console.error(error);
    setStatus("The model cannot be loaded. Check the connection and reload the page.", true);
  },
);
find("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) segment(file);
  event.target.value = ""; // the same photo may be chosen again
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
addEventListener("dragleave", () => find("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file && !find("file").disabled) segment(file);
});
for (const id of ["cutout", "mask"]) {
  find(`save-${id}`).addEventListener("click", () => download(id));
}

// For tests and the console.
Object.assign(window, { segmenter: { ready, run, squash, enlarge } });
