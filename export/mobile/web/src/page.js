const find = (id) => document.getElementById(id);
const { pads } = document.body.dataset;

const worker = new Worker("wasm/worker.js");
const calls = new Map(); // waiting for the worker, by number
let latest = 0; // number of the latest call
let stem = ""; // the name of the photo that is shown, without its extension

worker.addEventListener("message", ({ data: { id, result, error } }) => {
  const { resolve, reject } = calls.get(id);
  calls.delete(id);
  if (error) reject(new Error(error));
  else resolve(result);
});
worker.addEventListener("error", () => {
  for (const { reject } of calls.values()) reject(new Error("the worker cannot be loaded"));
  calls.clear();
});

/** Calls a method of the worker. */
function call(method, argument) {
  const id = ++latest;
  return new Promise((resolve, reject) => {
    calls.set(id, { resolve, reject });
    worker.postMessage({ id, method, argument });
  });
}

function setStatus(text, isError = false) {
  find("status").textContent = text;
  find("status").classList.toggle("error", isError);
}

/** Shows the photo, its mask (white is object) and the cut-out. */
function show(file, { width, height, part, views, warning }) {
  for (const [id, bitmap] of Object.entries(views)) {
    const canvas = find(id);
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
  }
  stem = file.name.replace(/\.[^.]+$/, "") || file.name;
  document.body.classList.add("has-result");
  find("result").hidden = false;
  find("warning").textContent = warning;
  const size = `${file.name}, ${width} × ${height} pixels`;
  setStatus(
    part ? `The object covers ${Math.round(100 * part)} % of ${size}.` : `No object was found in ${size}.`,
  );
}

let turn = 0;

async function segment(file) {
  const mine = ++turn; // only the photo chosen last is shown
  setStatus("Cutting out …");
  find("result").classList.add("waiting");
  try {
    const result = await call("segment", file);
    if (mine !== turn) return;
    if (result.refused) setStatus(`“${file.name}” is not an image that this browser can read.`, true);
    else show(file, result);
  } catch (error) {
    console.error(error);
    if (mine === turn) setStatus("The model failed on this photo. Reload the page to try again.", true);
  } finally {
    if (mine === turn) find("result").classList.remove("waiting");
  }
}

async function save(kind) {
  const button = find(`save-${kind}`);
  const name = `${stem}.${kind}.png`;
  button.disabled = true;
  setStatus(`Writing ${name} …`);
  try {
    const { width, height, blob } = await call("save", kind);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    setStatus(`Saved ${name}, ${width} × ${height} pixels.`);
  } catch (error) {
    console.error(error);
    setStatus(`${name} cannot be written.`, true);
  }
  button.disabled = false;
}

const ready = call("load", { pads: Boolean(pads) });
ready.then(
  ({ accelerator }) => {
    find("runtime").textContent = accelerator === "webgpu" ? "WebGPU" : "WebAssembly";
    setStatus("Ready. Choose a photo.");
    for (const input of document.querySelectorAll("#file, #sample")) input.disabled = false;
    return keep();
  },
  (error) => {
    console.error(error);
    setStatus("The model cannot be loaded. Check the connection and reload the page.", true);
  },
);

/** Keeps the page on the device, where the browser can: over HTTPS and on this computer. */
async function keep() {
  try {
    await navigator.serviceWorker.register("service_worker.js");
    await navigator.serviceWorker.ready;
    find("offline").hidden = false;
  } catch (error) {
    console.info("The page works only with a network:", error);
  }
}

find("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) segment(file);
  event.target.value = ""; // the same photo may be chosen again
});
find("sample")?.addEventListener("click", async ({ target: { dataset } }) => {
  const content = await (await fetch(dataset.file)).blob();
  segment(new File([content], dataset.file, { type: content.type }));
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
for (const kind of ["cutout", "mask"]) {
  find(`save-${kind}`).addEventListener("click", () => save(kind));
}

// For tests and the console.
Object.assign(window, { segmenter: { ready, run: (rgb) => call("run", rgb) } });
