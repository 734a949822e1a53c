// Drives the page in headless Chromium:
// node mobile_page.mjs CHROMIUM PROFILE ADDRESS PHOTO OUT WEB, WEB being where `npm ci` was run
import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const [executablePath, profile, address, photo, out, web] = process.argv.slice(2);
const { chromium } = createRequire(join(web, "package.json"))("playwright-core");
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"].concat(
  ["--disable-background-networking", "--disable-component-update", "--disable-sync"],
);
const context = await chromium.launchPersistentContext(profile, {
  executablePath, args, headless: true, viewport: { width: 1280, height: 800 },
});
const page = await context.newPage();
const foreign = [];
page.on("request", (request) => {
  if (!/^(blob:|data:)/.test(request.url()) && !request.url().startsWith(address)) {
    foreign.push(request.url());
  }
});
const status = () => page.locator("#status").textContent();
const waitForStatus = (text) =>
  page.waitForFunction((t) => document.getElementById("status").textContent.includes(t), text);

await page.goto(address);
await waitForStatus("Ready");
await page.setInputFiles("#file", { name: "a.txt", mimeType: "text/plain", buffer: Buffer.from("x") });
await waitForStatus("not an image");
const refusal = await status();
await page.setInputFiles("#file", photo);
await page.locator("#result").waitFor({ state: "visible" });
const answer = await status();
await page.screenshot({ path: join(out, "desktop.png"), fullPage: true });
await page.setViewportSize({ width: 390, height: 844 });
const overflows = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
await page.screenshot({ path: join(out, "phone.png"), fullPage: true });
for (const id of ["mask", "cutout"]) {
  const [download] = await Promise.all([
    page.waitForEvent("download"), page.locator(`#save-${id}`).press("Enter"),
  ]);
  await download.saveAs(join(out, `${id}.png`));
}
const pixels = JSON.parse(readFileSync(join(out, "pixels.json"), "utf8"));
const masks = await page.evaluate(async (rgb) => {
  const { ready, run } = window.segmenter;
  return Array.from(await run(await ready, Float32Array.from(rgb)));
}, pixels);
// A photo whose EXIF turns it is dropped on the page: the cut-out stands upright.
const turned = readFileSync(join(out, "turned.jpg")).toString("base64");
const dropped = await page.evaluateHandle(async (base64) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "turned.jpg", { type: "image/jpeg" }));
  return data;
}, turned);
await page.dispatchEvent("body", "dragover", { dataTransfer: dropped });
const isMarked = await page.locator("#drop").evaluate((e) => e.classList.contains("over"));
await page.dispatchEvent("body", "drop", { dataTransfer: dropped });
await waitForStatus("turned.jpg");
const size = await page.locator("#cutout").evaluate((e) => [e.width, e.height]);
await page.route("**/segmenter.tflite", (route) => route.abort());
await page.reload();
await waitForStatus("cannot be loaded");
const broken = await status();
await context.close();
writeFileSync(
  join(out, "answers.json"), JSON.stringify({
    refusal, answer, broken, overflows, foreign, masks, size, isMarked,
  }),
);
