// Bundles the page with its runtime: npm run build -- --model=segmenter.tflite --out=SITE
// The page it writes requests only its own files.
import {
  cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({
  options: {
    model: { type: "string" },
    out: { type: "string", default: join(here, "dist") },
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
  await build({
    entryPoints: [join(here, "src", "page.js")],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    legalComments: "linked",
    outfile: join(folder, "page.js"),
    logLevel: "silent",
  });
  for (const name of ["index.html", "page.css", "LICENSE.txt"]) {
    cpSync(join(here, "src", name), join(folder, name));
  }
  // The runtime loads `compat` in browsers without relaxed SIMD. Neither uses threads, so no
  // COOP/COEP headers are needed.
  for (const name of ["litert_wasm_internal", "litert_wasm_compat_internal"]) {
    for (const ending of [".js", ".wasm"]) {
      cpSync(join(runtime, "wasm", name + ending), join(folder, "wasm", name + ending));
    }
  }
  cpSync(model, join(folder, "segmenter.tflite"));
  const { name, version, license } = JSON.parse(readFileSync(join(runtime, "package.json"), "utf8"));
  writeFileSync(
    join(folder, "NOTICE.txt"),
    `page.js and wasm/ contain ${name} ${version} of Google, under ${license} (LICENSE.txt).\n`,
  );
}
