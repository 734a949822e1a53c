// Bundles the page with its runtime: npm run build -- --model=segmenter.tflite --out=SITE
// The folder that it writes needs no network but its own files.
import { cpSync, existsSync, mkdirSync, readFileSync } from "node:fs";
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

// npm runs scripts in this folder; a path on the command line is meant from where the user stands.
const from = process.env.INIT_CWD ?? process.cwd();
if (!values.model) fail("--model is needed, the .tflite file that the page runs");
const model = resolve(from, values.model);
const out = resolve(from, values.out);
if (!existsSync(model)) fail(`--model=${values.model}: there is no such file`);
if (readFileSync(model).subarray(4, 8).toString() !== "TFL3") {
  fail(`--model=${values.model}: is not a TFLite file; write one with the tflite export`);
}
if (existsSync(out) && !values.overwrite) {
  fail(`--out=${values.out}: already exists; remove it or add --overwrite`);
}

const runtime = join(here, "node_modules", "@litertjs", "core");
mkdirSync(join(out, "wasm"), { recursive: true });
await build({
  entryPoints: [join(here, "src", "page.js")],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "linked",
  outfile: join(out, "page.js"),
});
for (const name of ["index.html", "page.css"]) cpSync(join(here, "src", name), join(out, name));
// The runtime takes `compat` where the browser lacks relaxed SIMD; neither has threads, so that
// no COOP/COEP headers are needed.
for (const name of ["litert_wasm_internal", "litert_wasm_compat_internal"]) {
  for (const ending of [".js", ".wasm"]) {
    cpSync(join(runtime, "wasm", name + ending), join(out, "wasm", name + ending));
  }
}
cpSync(model, join(out, "segmenter.tflite"));
console.log(`${values.out}: serve this folder with any web server`);
