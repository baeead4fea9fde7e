// Builds the page into ww_callbacks/page/static: page.js, page.css, index.html and licenses.txt. The same sources give
// the same bytes.
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "ww_callbacks", "page", "static");

/** Packages of which code is in the bundle, as esbuild's list of inputs says. */
function packagesOf(inputs) {
  const names = new Set();
  for (const path of Object.keys(inputs)) {
    const match = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path);
    if (match) names.add(match[1]);
  }
  return [...names].sort();
}

async function licences(names) {
  const parts = ["The page holds code of these packages."];
  for (const name of names) {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    const text = await readFile(join(folder, "LICENSE"), "utf8");
    parts.push(`${name} ${version} (${license})\n\n${text.trim()}`);
  }
  return `${parts.join(`\n\n${"-".repeat(72)}\n\n`)}\n`;
}

await mkdir(target, { recursive: true });
const result = await build({
  absWorkingDir: here,
  entryPoints: { page: "src/main.tsx" },
  outdir: target,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome103", "firefox113", "safari16.4"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "ascii",
  metafile: true,
  logLevel: "warning",
});
await copyFile(join(here, "src", "index.html"), join(target, "index.html"));
await writeFile(join(target, "licenses.txt"), await licences(packagesOf(result.metafile.inputs)));
for (const [path, { bytes }] of Object.entries(result.metafile.outputs)) console.log(`${bytes} bytes ${path}`);
