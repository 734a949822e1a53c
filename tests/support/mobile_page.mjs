// Drives the page in headless Chromium, serves it, and stops the server to see it work without:
// node mobile_page.mjs CHROMIUM SITE PHOTO OUT WEB, WEB being where `npm ci` was run
import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { basename, extname, join } from "node:path";

const [executablePath, site, photo, out, web] = process.argv.slice(2);
const { chromium } = createRequire(join(web, "package.json"))("playwright-core");

const TYPES = {
  ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm",
  ".webmanifest": "application/manifest+json", ".png": "image/png", ".jpg": "image/jpeg",
};
let isModelMissing = false;
const server = createServer(({ url }, response) => {
  const path = url === "/" ? "/index.html" : url;
  try {
    if (isModelMissing && path.endsWith(".tflite")) throw new Error("missing");
    const content = readFileSync(join(site, path));
    response.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "application/octet-stream" });
    response.end(content);
  } catch {
    response.writeHead(404);
    response.end();
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const address = `http://127.0.0.1:${server.address().port}/`;

const args = ["--no-sandbox", "--disable-quic", "--no-first-run"].concat(
  ["--disable-background-networking", "--disable-component-update", "--disable-sync"],
);
const foreign = [];

/** Opens the page in a browser of its own. */
async function open(flags, options = {}) {
  const browser = await chromium.launch({ executablePath, args: [...args, ...flags] });
  const viewport = { width: 1280, height: 800 };
  const context = await browser.newContext({ viewport, ...options });
  context.on("request", (request) => {
    if (!/^(blob:|data:)/.test(request.url()) && !request.url().startsWith(address)) {
      foreign.push(request.url());
    }
  });
  context.on("console", (message) => console.error(message.text()));
  context.setDefaultTimeout(60_000); // of a busy machine
  const page = await context.newPage();
  await page.goto(address);
  return { browser, context, page };
}

const warning = (page) => page.locator("#warning").innerText();
const status = (page) => page.locator("#status").textContent();
const waitForStatus = (page, text) =>
  page.waitForFunction((t) => document.getElementById("status").textContent.includes(t), text);
const masksOf = (page, pixels) =>
  page.evaluate(async (rgb) => {
    const { ready, run } = window.segmenter;
    await ready;
    return Array.from(await run(Float32Array.from(rgb)));
  }, pixels);

async function download(page, kind, path) {
  const [file] = await Promise.all([
    page.waitForEvent("download"), page.locator(`#save-${kind}`).press("Enter"),
  ]);
  await file.saveAs(join(out, path));
  return file.suggestedFilename();
}

const answers = {};
const { browser, page } = await open(["--disable-gpu"]);
await waitForStatus(page, "Ready");
answers.words = await page.locator("header").innerText();
await page.setInputFiles("#file", { name: "a.txt", mimeType: "text/plain", buffer: Buffer.from("x") });
await waitForStatus(page, "not an image");
answers.refusal = await status(page);

// A large photo: the page goes on meanwhile, and its files have the photo's size.
await page.evaluate(() => {
  const begin = performance.now();
  let last = begin;
  window.gap = 0; // the longest time in which the page did nothing else
  const timer = setInterval(() => {
    const now = performance.now();
    window.gap = Math.max(window.gap, now - last);
    last = now;
    window.time = now - begin;
    if (!document.getElementById("result").hidden) clearInterval(timer);
  }, 10);
});
await page.setInputFiles("#file", join(out, "large.jpg"));
await page.locator("#result").waitFor({ state: "visible" });
[answers.gap, answers.time] = await page.evaluate(() => [window.gap, window.time]);
answers.warnings = [await warning(page)];
answers.largeName = await download(page, "cutout", "large.png");

await page.setInputFiles("#file", photo);
await waitForStatus(page, basename(photo));
answers.answer = await status(page);
answers.warnings.push(await warning(page));
answers.names = [];
for (const kind of ["mask", "cutout"]) {
  answers.names.push(await download(page, kind, `${kind}.png`));
}
answers.masks = await masksOf(page, JSON.parse(readFileSync(join(out, "pixels.json"), "utf8")));

// A photo whose EXIF turns it is dropped on the page: the cut-out stands upright.
const turned = readFileSync(join(out, "turned.jpg")).toString("base64");
const dropped = await page.evaluateHandle(async (base64) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "turned.jpg", { type: "image/jpeg" }));
  return data;
}, turned);
await page.dispatchEvent("body", "dragover", { dataTransfer: dropped });
answers.isMarked = await page.locator("#drop").evaluate((e) => e.classList.contains("over"));
await page.dispatchEvent("body", "drop", { dataTransfer: dropped });
await waitForStatus(page, "turned.jpg");
answers.size = await page.locator("#cutout").evaluate((e) => [e.width, e.height]);

// Without the server, in the same browser, at a phone's size.
await page.locator("#sample").click();
await waitForStatus(page, "sample.jpg");
await page.screenshot({ path: join(out, "desktop.png"), fullPage: true });
await page.locator("#offline").waitFor({ state: "visible" });
server.closeAllConnections();
await new Promise((resolve) => server.close(resolve));
await page.setViewportSize({ width: 390, height: 844 });
await page.reload();
await waitForStatus(page, "Ready");
await page.screenshot({ path: join(out, "phone_start.png"), fullPage: true });
await page.locator("#sample").click();
await waitForStatus(page, "sample.jpg");
answers.offline = await status(page);
answers.warnings.push(await warning(page));
answers.overflows = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
answers.bottoms = await page.evaluate(() =>
  ["cutout", "save-cutout"].map((id) => document.getElementById(id).getBoundingClientRect().bottom),
);
await page.screenshot({ path: join(out, "phone.png"), fullPage: true });
await browser.close();

// Another visitor, while the model is missing; and one with a graphics card, drawn in software.
await new Promise((resolve) => server.listen(Number(new URL(address).port), "127.0.0.1", resolve));
isModelMissing = true;
const broken = await open(["--disable-gpu"]);
await waitForStatus(broken.page, "cannot be loaded");
answers.broken = await status(broken.page);
await broken.browser.close();
isModelMissing = false;
const card = await open(["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]);
await waitForStatus(card.page, "Ready");
answers.runtime = await card.page.locator("#runtime").textContent();
answers.hasCard = await card.page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));
answers.cardMasks = await masksOf(
  card.page, JSON.parse(readFileSync(join(out, "pixels.json"), "utf8")),
);
await card.browser.close();
server.close();
answers.foreign = foreign;
writeFileSync(join(out, "answers.json"), JSON.stringify(answers));
