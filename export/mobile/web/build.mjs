// Bundles the page with its runtime: npm run build -- --model=segmenter.tflite --out=SITE
// --sample=PHOTO --credit=TEXT name a sample photo of what the model knows.
// The page it writes requests only its own files.
import { createHash } from "node:crypto";
import {
  cpSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync,
} from "node:fs";
import { dirname, extname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build } from "esbuild";

const NUMBERS = 24; // that describe a photo, in src/domain.js
const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({
  options: {
    model: { type: "string" },
    out: { type: "string", default: join(here, "dist") },
    sample: { type: "string" },
    credit: { type: "string" },
    overwrite: { type: "boolean", default: false },
  },
});

function fail(message) {
  console.error(`build.mjs: error: ${message}`);
  process.exit(2);
}

// npm runs scripts in this folder; paths are relative to where npm was called.
const from = process.env.INIT_CWD ?? process.cwd();
if (!values.model) fail("--model is needed, the .tflite file that the page runs");
const model = resolve(from, values.model);
const out = resolve(from, values.out);
if (!existsSync(model)) fail(`--model=${values.model}: there is no such file`);
if (readFileSync(model).subarray(4, 8).toString() !== "TFL3") {
  fail(`--model=${values.model}: is not a TFLite file; write one with layerseg export --format=tflite`);
}
if (values.sample && !existsSync(resolve(from, values.sample))) {
  fail(`--sample=${values.sample}: there is no such file`);
}
if (existsSync(out) && !values.overwrite) {
  fail(`--out=${values.out}: already exists; remove it or add --overwrite`);
}

// The folder appears complete or not at all.
const partial = `${out}.partial`;
rmSync(partial, { recursive: true, force: true });
try {
  await bundle(partial);
  if (existsSync(out)) rmSync(out, { recursive: true });
  renameSync(partial, out);
} catch (error) {
  rmSync(partial, { recursive: true, force: true });
  fail(`${error.message.split("\n")[0]}; nothing was written (was \`npm ci\` run here?)`);
}
console.log(`${values.out}: serve this folder with any web server`);

async function bundle(folder) {
  const runtime = join(here, "node_modules", "@litertjs", "core");
  mkdirSync(join(folder, "wasm"), { recursive: true });
  const texts = textsOf(readFileSync(model));
  const label = (texts["labels.txt"] ?? "object").trim();
  const pads = (texts["aspect.txt"] ?? "squash").trim() !== "squash";
  const domain = domainOf(texts, pads);
  const sample = sampleOf(label);
  await compile("page.js", folder, "esm");
  // A classic script, since the runtime loads itself by importScripts, and next to its files.
  await compile("worker.js", join(folder, "wasm"), "iife", { DOMAIN: JSON.stringify(domain) });
  let page = readFileSync(join(here, "src", "index.html"), "utf8");
  page = fill(page, { label, pads: pads ? "yes" : "" }, escaped);
  page = fill(page, sample?.html ?? { sample: "", credit: "" });
  writeFileSync(join(folder, "index.html"), page);
  writeFileSync(join(folder, "manifest.webmanifest"), JSON.stringify(manifest(label), null, 2));
  for (const name of ["page.css", "icon-192.png", "icon-512.png", "LICENSE.txt"]) {
    cpSync(join(here, "src", name), join(folder, name));
  }
  if (sample) cpSync(sample.path, join(folder, sample.name));
  // The runtime loads `compat` in browsers without relaxed SIMD. Neither uses threads, so no
  // COOP/COEP headers are needed.
  const runtimes = ["litert_wasm_internal", "litert_wasm_compat_internal"];
  for (const name of runtimes) {
    for (const ending of [".js", ".wasm"]) {
      cpSync(join(runtime, "wasm", name + ending), join(folder, "wasm", name + ending));
    }
  }
  cpSync(model, join(folder, "segmenter.tflite"));
  const { name, version, license } = JSON.parse(readFileSync(join(runtime, "package.json"), "utf8"));
  writeFileSync(
    join(folder, "NOTICE.txt"),
    `The .js files and wasm/ contain ${name} ${version} of Google, under ${license} (LICENSE.txt).\n` +
      (sample?.credit ? `${sample.name}: see the page for its credit.\n` : ""),
  );
  const files = [...readdirSync(folder).filter((file) => file !== "wasm"), "wasm/worker.js"];
  const stored = [...files, ...runtimes.map((file) => `wasm/${file}.wasm`)];
  const hash = createHash("sha256");
  for (const file of stored) hash.update(file).update(readFileSync(join(folder, file)));
  await compile("service_worker.js", folder, "iife", {
    BUILD: JSON.stringify(hash.digest("hex").slice(0, 16)),
    FILES: JSON.stringify(files.filter((file) => file !== "index.html")), // it is "./"
    RUNTIMES: JSON.stringify(runtimes),
  });
}

/** Bundles a script with what it imports. */
async function compile(name, folder, format, define = {}) {
  await build({
    entryPoints: [join(here, "src", name)],
    bundle: true,
    minify: true,
    format,
    define,
    target: "es2022",
    legalComments: "linked",
    outfile: join(folder, name),
    logLevel: "silent",
  });
}

/** Returns the texts in the zip archive at the end of a TFLite file, by name. */
function textsOf(content) {
  const texts = {};
  // The archive's entries are stored without compression, its directory is at the end.
  const end = content.lastIndexOf("PK\x05\x06");
  if (end < 0) return texts;
  const count = content.readUInt16LE(end + 10);
  // Offsets count from the archive's start, or from the file's, if it was appended with `zipfile`.
  const directory = end - content.readUInt32LE(end + 12);
  const start = directory - content.readUInt32LE(end + 16);
  for (let entry = 0, at = directory; entry < count; entry++) {
    const [size, length] = [content.readUInt32LE(at + 20), content.readUInt16LE(at + 28)];
    const name = content.toString("utf8", at + 46, at + 46 + length);
    const local = start + content.readUInt32LE(at + 42);
    const data = local + 30 + content.readUInt16LE(local + 26) + content.readUInt16LE(local + 28);
    texts[name] = content.toString("utf8", data, data + size);
    at += 46 + length + content.readUInt16LE(at + 30) + content.readUInt16LE(at + 32);
  }
  return texts;
}

/** Returns the statistics of the training photos: those in the file, or else next to it; or null. */
function domainOf(texts, pads) {
  try {
    const text = texts["domain.json"] ?? readFileSync(join(dirname(model), "domain.json"), "utf8");
    const { mean, transform } = JSON.parse(text);
    const isRight = [mean, transform, ...transform].every((values) => values.length === NUMBERS);
    const isFinite = [mean, ...transform].flat().every(Number.isFinite);
    if (isRight && isFinite && !pads) return { mean, transform }; // it is of squashed photos
  } catch {
    // As without the file.
  }
  console.log("no statistics of the training photos: the page does not warn about other photos");
  return null;
}

/** Returns the sample photo: --sample, or the flower, if the model may know flowers. */
function sampleOf(label) {
  if (!values.sample && !/flower|^object$/i.test(label)) {
    console.log(`no sample photo: name one of “${label}” with --sample=PHOTO --credit=TEXT`);
    return null;
  }
  const path = values.sample ? resolve(from, values.sample) : join(here, "src", "flower.jpg");
  const credit = values.sample
    ? escaped(values.credit ?? "")
    : '<a href="https://www.flickr.com/photos/vultilion/6056698931/">vultilion</a>, ' +
      '<a href="https://creativecommons.org/licenses/by/2.0/">CC BY 2.0</a>';
  const name = `sample${extname(path).toLowerCase()}`;
  const html = {
    sample: `<button id="sample" type="button" data-file="${name}" disabled>` +
      `<img src="${name}" alt="">Try the sample photo</button>`,
    credit: credit ? ` Sample photo: ${credit}.` : "",
  };
  return { path, name, credit, html };
}

function manifest(label) {
  const icon = (side) => ({
    src: `icon-${side}.png`, sizes: `${side}x${side}`, type: "image/png", purpose: "any maskable",
  });
  return {
    name: `Cut out a photo: ${label}`,
    short_name: "Cut out",
    start_url: "./",
    scope: "./",
    display: "standalone",
    background_color: "#f7f8fa",
    theme_color: "#1d5fd1",
    icons: [icon(192), icon(512)],
  };
}

/** Puts values in place of {{name}}. */
function fill(text, named, write = (value) => value) {
  return Object.entries(named).reduce(
    (filled, [name, value]) => filled.replaceAll(`{{${name}}}`, () => write(value)), text,
  );
}

function escaped(text) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return text.replace(/[&<>"]/g, (character) => entities[character]);
}
